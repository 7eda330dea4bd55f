"""The section runs by the best way there is, and says why where there is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the profiler needs torch")

from models.llm import LlmSpec  # noqa: E402
from models.profile_records import Status  # noqa: E402
from models.profile_table import read_profile_table  # noqa: E402
from profiler import sm_share_campaign  # noqa: E402
from profiler.campaign import CampaignSettings  # noqa: E402
from profiler.environment import Device  # noqa: E402
from profiler.grid import GridLimits, grid_of  # noqa: E402
from profiler.sections import Section, section_grid  # noqa: E402
from profiler.sm_share_campaign import measure_sm_shares  # noqa: E402
from profiler.sm_share_processes import ShareRequest  # noqa: E402
from profiler.subject import Subject  # noqa: E402
from profiler.timing import TimingSettings  # noqa: E402

CPU = Device(kind="cpu")
QUICK = TimingSettings(target_ci_frac=0.9, max_s=0.05, min_samples=6, num_tries=1)
SETTINGS = CampaignSettings(
    budget_s=20.0,
    limits=GridLimits(
        max_prompt_tokens=64,
        max_past_tokens=64,
        max_requests=8,
        max_context_tokens=64,
        max_kv_tokens=256,
    ),
    max_refinements=0,
)


class Blocks:
    """A limiter that only notes which shares it was asked for."""

    name, confines_process = "blocks", False
    shares = (0.5, 0.25)

    def __init__(self) -> None:
        self.asked: list[float] = []

    @contextmanager
    def limited(self, share: float) -> Iterator[None]:
        self.asked.append(share)
        yield


@pytest.fixture
def layer(tiny_llm: LlmSpec) -> Subject:
    return Subject(llm=tiny_llm, part="dense", dtype="fp32")


def test_points_of_the_section_are_fitted_points_too() -> None:
    """So a campaign has them on the whole device already."""
    for limits in (GridLimits(), SETTINGS.limits):
        fitted = {each.point for each in grid_of("dense", limits)}
        for each in section_grid("dense", limits, Section.SM_SHARE):
            assert each.point in fitted
    phases = [
        each.point.phase
        for each in section_grid(
            "dense", GridLimits(), Section.SM_SHARE, sm_shares=(0.3,)
        )
    ]
    assert phases == ["prefill"] * 3 + ["decode"] * 3
    assert section_grid("ends", GridLimits(), Section.SM_SHARE) == ()


def test_steps_run_within_the_limiter_and_carry_its_share(
    layer: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = Blocks()
    monkeypatch.setattr(
        sm_share_campaign, "limiter_for", lambda *_: (blocks, blocks.name)
    )
    path = tmp_path / "r.jsonl"
    outcome = measure_sm_shares(CPU, [layer], path, settings=SETTINGS, timing=QUICK)
    assert outcome.describe() == "by blocks"
    steps = read_profile_table(path).steps
    points = {r.point for r in steps}
    assert [r.sm_share_frac for r in steps] == [
        share for share in (1.0, 0.5, 0.25) for _ in points
    ]
    assert blocks.asked == [share for share in (0.5, 0.25) for _ in points]
    assert all(r.backend.endswith("blocks") for r in steps if r.sm_share_frac < 1)


def test_without_a_way_every_point_says_why(
    layer: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sm_share_campaign, "limiter_for", lambda *_: (None, "too old a driver")
    )
    monkeypatch.setattr(sm_share_campaign, "why_no_processes", lambda _: "no server")
    path = tmp_path / "r.jsonl"
    outcome = measure_sm_shares(
        CPU, [layer], path, settings=SETTINGS, timing=QUICK, shares=(0.5, 0.3)
    )
    assert outcome.describe() == "not measured: too old a driver; no server"
    steps = read_profile_table(path).steps
    partial = [r for r in steps if r.sm_share_frac < 1]
    assert {r.sm_share_frac for r in partial} == {0.5, 0.3}
    assert {(r.status, r.note) for r in partial} == {
        (Status.NOT_MEASURED, "no SM shares here: too old a driver")
    }


def test_processes_take_over_where_streams_cannot_be_confined(
    layer: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measured(request: ShareRequest, shares: object, path: Path) -> tuple[str, ...]:
        asked.append((request.subjects, shares, path))
        return ()

    monkeypatch.setattr(sm_share_campaign, "limiter_for", lambda *_: (None, "no"))
    monkeypatch.setattr(sm_share_campaign, "why_no_processes", lambda _: None)
    monkeypatch.setattr(sm_share_campaign, "measure_shares", measured)
    path = tmp_path / "r.jsonl"
    outcome = measure_sm_shares(
        CPU, [layer], path, settings=SETTINGS, timing=QUICK, shares=(0.5,)
    )
    assert outcome.describe() == "by processes"
    assert asked == [((layer,), (0.5,), path)]
    # The same points on the whole device are measured here.
    assert {r.sm_share_frac for r in read_profile_table(path).steps} == {1.0}
