"""The benchmark of MuxServe's placement: what must hold of its figures."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.latency.contention import SmSharing, StepDemand
from planner.multiplexing.llm_costs import CostBook
from planner.multiplexing.meshes import MeshSupply
from planner.multiplexing.unit import LlmUnit, UnitMember

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT.parent / "shared" / "reference" / "muxserve"
SMALL = ("basic_n3_4gpu", "powerlaw_a2.1_s1.0_n4_4gpu", "powerlaw_a0.9_s1.0_n5_8gpu")

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="no reference data")


@pytest.fixture(scope="module")
def scripts():
    """The scripts as modules; they import their siblings as scripts do."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "accuracy"))
    try:
        import muxserve
        import muxserve_contention
        import muxserve_estimate
        import muxserve_units
    finally:
        sys.path.pop(0)
    return {
        "placement": muxserve,
        "contention": muxserve_contention,
        "estimate": muxserve_estimate,
        "units": muxserve_units,
    }


def case_file(name: str) -> Path:
    return FOLDER / f"case_{name}.json"


@pytest.fixture(scope="module")
def rows(scripts):
    return [scripts["placement"].compare(case_file(name), None) for name in SMALL]


def test_the_released_objective_is_reproduced(rows) -> None:
    for row in rows:
        assert row["reproduced"] == pytest.approx(row["released"], rel=1e-6)


def test_exact_is_at_least_the_greedy_and_what_was_released(rows) -> None:
    for row in rows:
        assert row["status"] == "OPTIMAL"
        assert row["same_candidates"] >= row["greedy"] - 1e-9
        assert row["same_candidates"] >= row["released"] * (1 - 1e-9)
        assert row["ours"] >= row["same_candidates"] - 1e-9


def test_units_are_worth_what_the_file_says(scripts) -> None:
    """Every unit of a published placement, not only their sum."""
    path = case_file("powerlaw_a2.1_s1.25_n19_32gpu")
    data = json.loads(path.read_text(encoding="utf-8"))
    costs = scripts["placement"].cost_table(path, None, data)
    case = scripts["estimate"].Case(data, costs)
    index = {llm.name: i for i, llm in enumerate(case.llms)}
    for unit in data["placement"]:
        if unit["llms"]:
            members = tuple(index[llm["name"]] for llm in unit["llms"])
            shares = tuple(llm["decode_mps"] for llm in unit["llms"])
            value, _ = case.throughputs(unit["ngpus"], members, shares)
            assert value == pytest.approx(unit["mesh_tpt"], rel=1e-9)


def test_the_summary_takes_the_worst_and_the_middle(scripts) -> None:
    row = {"released": 10.0, "reproduced": 10.0, "seconds": 1.0, "cpu_seconds": 1.0}
    gains = ((0.0, 0.01, 0.02), (0.0, 0.1, 0.3), (0.05, 0.2, 0.1))
    cases = [
        {
            **row,
            "gap_frac": 0.0,
            "greedy": 10 * (1 + greedy),
            "same_candidates": 10 * (1 + same),
            "ours": 10 * (1 + ours),
        }
        for greedy, same, ours in gains
    ]
    cases[0]["reproduced"] = 10.1
    summary = scripts["placement"].summary_of(cases)
    assert summary["max_reproduction_error_frac"] == pytest.approx(0.01)
    assert summary["min_gain_frac"] == pytest.approx(0.02)
    assert summary["median_gain_frac"] == pytest.approx(0.1)
    assert summary["greedy_median_gain_frac"] == pytest.approx(0.0)


def test_a_case_that_the_released_code_gave_up_on_counts_as_reproduced(scripts) -> None:
    row = {"released": None, "reproduced": None, "ours": 1.0, "greedy": 1.0}
    rest = {"same_candidates": 1.0, "gap_frac": 0.0, "seconds": 1.0, "cpu_seconds": 1.0}
    summary = scripts["placement"].summary_of([row | rest])
    assert summary["max_reproduction_error_frac"] == 0.0
    assert summary["median_gain_frac"] is None


@pytest.fixture(scope="module")
def cost_rows(scripts):
    return scripts["contention"].read_rows(FOLDER)


def test_shipped_contention_is_the_fit(scripts, cost_rows) -> None:
    contention = scripts["contention"]
    shipped = SmSharing.published()
    fitted = dict(zip(contention.COEFFICIENTS, contention.fit(cost_rows), strict=True))
    for name, value in fitted.items():
        assert getattr(shipped, name) == pytest.approx(value, rel=2e-3)


def test_contention_on_shares_left_out_stays_within_what_is_shipped(
    scripts, cost_rows
) -> None:
    contention = scripts["contention"]
    is_left = np.isin(cost_rows.share, contention.HELD_OUT_SHARES)
    fitted = contention.fit(cost_rows.only(~is_left))
    errors = contention.errors(cost_rows.only(is_left), fitted)
    shipped = SmSharing.published()
    for phase, told in (
        ("decode", shipped.decode_error_frac),
        ("prefill", shipped.prefill_error_frac),
    ):
        assert errors[phase]["median_frac"] == pytest.approx(told, abs=1e-3)


def test_scalar_and_array_forms_of_the_model_agree(scripts, cost_rows) -> None:
    contention = scripts["contention"]
    rows = cost_rows.only(np.arange(0, 4000, 397))
    shipped = SmSharing.published()
    values = [getattr(shipped, name) for name in contention.COEFFICIENTS]
    predicted = contention.predicted_ms(rows, values)
    for each, expected in enumerate(predicted):
        memory, arithmetic, exchange = rows.peak_ms[:, each]
        memory, arithmetic = memory / values[0], arithmetic / values[1]
        whole = float(rows.whole_ms[each])
        scale = min(1.0, whole / (memory + arithmetic + exchange))
        demand = StepDemand(
            whole_ms=whole,
            memory_ms=memory * scale,
            arithmetic_ms=arithmetic * scale,
            exchange_ms=exchange * scale,
            least_memory_ms=0.0,
            least_arithmetic_ms=0.0,
        )
        alone = shipped.alone_ms(demand, float(rows.share[each]))
        assert alone == pytest.approx(expected, rel=1e-9)


def unit_run(scripts, *, cycle_ms: float | None):
    """A run of one LLaMA-7B with ten decode steps on one A100."""
    units = scripts["units"]
    problem = units.shared_problem(("7b",), (1.0,), 8.0, 1)
    book = CostBook(
        problem,
        units.library(),
        sharing=SmSharing.published(),
        shares=(1.0,),
        prompts=range(1, units.MOST_PROMPTS + 1),
    )
    share = 1.0 if cycle_ms else 0.5
    member = UnitMember(
        service="llm-0",
        served_rps=1.0,
        decode_share_frac=share,
        kv_quota_tokens=10_000,
        max_num_seqs=10,
        prefill_ms=20.0,
        tpot_ms=15.0,
    )
    mesh = next(m for m in MeshSupply.of(problem.cluster).kinds if m.num_gpus == 1)
    unit = LlmUnit(
        mesh=mesh, members=(member,), prefill_share_frac=share, cycle_ms=cycle_ms
    )
    return units.UnitRun(unit, book)


@pytest.mark.parametrize("cycle_ms", [None, 50.0])
def test_a_request_alone_takes_its_prefill_and_its_steps(scripts, cycle_ms) -> None:
    run = unit_run(scripts, cycle_ms=cycle_ms)
    request = scripts["units"].Request(100.0, 0, 10)
    run.run([request])
    cost, sharing = run.costs[0], SmSharing.published()
    share = 1.0 if cycle_ms else 0.5
    prefill_ms = sharing.alone_ms(cost.prefill[1], share)
    assert request.first_token_ms == pytest.approx(100.0 + prefill_ms)
    assert (run.members[0].done, run.members[0].resident) == (1, 0)


def test_every_request_is_served_once(scripts) -> None:
    run = unit_run(scripts, cycle_ms=None)
    requests = [scripts["units"].Request(30.0 * i, 0, 10) for i in range(40)]
    run.run(requests)
    assert run.members[0].done == 40
    assert all(r.first_token_ms > r.arrival_ms for r in requests)


def test_a_prompt_waits_for_room_in_the_kv_quota(scripts) -> None:
    run = unit_run(scripts, cycle_ms=None)
    member = run.members[0]
    tokens = int(1.5 * member.demand.context_tokens)
    member.planned = replace(member.planned, kv_quota_tokens=tokens)
    first, second = (scripts["units"].Request(0.0, 0, 10) for _ in range(2))
    run.run([first, second])
    # The quota holds one request: the second prompt starts when the first is done.
    cost, sharing = run.costs[0], SmSharing.published()
    steps = 10 * sharing.alone_ms(cost.decodes[0], 0.5)
    prefill = sharing.alone_ms(cost.prefill[1], 0.5)
    assert second.first_token_ms == pytest.approx(prefill + steps + prefill)
