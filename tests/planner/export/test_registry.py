"""Export targets by name, built in or from other distributions."""

from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from clusters.fields import InputError
from models.parallelism import Parallelism
from planner.errors import PlannerError
from planner.export import registry
from planner.export.contract import Exporter
from planner.export.vllm import VllmExporter, export_vllm
from planner.plan import Plan
from tests.planner.export.plans import aggregated, one_node


class Shout:
    """An exporter of another distribution."""

    target = "shout"
    target_version = "1"

    def supports(self, plan: Plan) -> str | None:
        return None

    def caveats(self, plan: Plan) -> tuple[str, ...]:
        return ()

    def export(self, plan: Plan) -> dict[str, str]:
        return {"plan.txt": plan.deployment.describe().upper()}


def test_vllm_is_the_target_unless_another_is_asked_for() -> None:
    plan = one_node()
    assert registry.export(plan) == export_vllm(plan)


def test_built_in_exporters_meet_the_contract() -> None:
    exporter: Exporter = VllmExporter()
    assert exporter.target == "vllm"
    assert exporter.supports(one_node()) is None


def test_an_unknown_target_is_an_input_error_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"to = 'vlm': .*nearest is 'vllm'"):
        registry.exporter_for("vlm")


def test_a_plan_that_a_target_cannot_express_is_refused_with_the_reason() -> None:
    plan = aggregated()
    first, second = plan.deployment.replicas
    wide = replace(first, parallelism=Parallelism(tp=1, attention_dp=2))
    deployment = replace(plan.deployment, replicas=(wide, second))
    with pytest.raises(PlannerError, match="only TP and PP are exported"):
        registry.export(replace(plan, deployment=deployment))


def test_another_distribution_adds_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    # As importlib.metadata would read them from the distribution's metadata.
    shout = EntryPoint("shout", f"{__name__}:Shout", registry.ENTRY_POINT_GROUP)
    vllm = EntryPoint("vllm", f"{__name__}:Shout", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda entry: Shout())
    monkeypatch.setattr(
        registry,
        "entry_points",
        lambda **params: EntryPoints([shout, vllm]).select(**params),
    )
    assert registry.target_names() == ("vllm", "shout")
    assert registry.export(one_node(), "shout")["plan.txt"].startswith("1P1D")
    assert isinstance(registry.exporter_for("vllm"), VllmExporter)
