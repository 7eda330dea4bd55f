"""A campaign learns from a crash, and tells of a stage that breaks."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

pytest.importorskip("torch", reason="campaigns need torch")

from planner.cli.profile_folder import begin_campaign
from planner.cli.profile_stages import DEVICE_LOST_CODE, CampaignRun, RunOptions
from profiler.device_lost import DeviceLostError
from profiler.features import LEFT_OUT

Make = Callable[..., CampaignRun]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(**found: Any) -> CampaignRun:
        if found:
            (tmp_path / "summary.json").write_text(json.dumps(found))
        summary = begin_campaign(
            tmp_path, after_crash=bool(found), crashing=lambda: ["fp8", "grouped"]
        )
        options = RunOptions(
            out=tmp_path,
            gpu=None,
            target_ci=0.02,
            sm_share="first",
            after_crash=bool(found),
            report_only=False,
            quiet=True,
        )
        device = SimpleNamespace(is_cuda=False, is_usable=lambda: True)
        plan = SimpleNamespace(dtype="bf16", total_s=60.0)
        return CampaignRun(device, plan, options, summary)

    return make


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def serve() -> None:
    """A stage."""


def test_stage_that_breaks_is_told_and_the_campaign_goes_on(
    make: Make, tmp_path: Path
) -> None:
    def suite() -> None:
        raise ValueError("no such thing")

    make()._run(suite)
    assert "ValueError: no such thing" in read(tmp_path)["suite_failed"]
    assert read(tmp_path)["suite_s"] >= 0


def test_lost_device_ends_the_process_with_its_own_code(
    make: Make, tmp_path: Path
) -> None:
    run = make()
    run._device = SimpleNamespace(is_cuda=False, is_usable=lambda: False)

    def suite() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(typer.Exit) as ended:
        run._run(suite)
    assert ended.value.exit_code == DEVICE_LOST_CODE
    assert "illegal memory access" in read(tmp_path)["suite_failed"]

    def main() -> None:
        raise DeviceLostError(SimpleNamespace(note="illegal"))

    with pytest.raises(typer.Exit) as ended:
        run._run(main)
    assert ended.value.exit_code == DEVICE_LOST_CODE


def test_stage_under_way_is_on_the_disk_before_it_runs(
    make: Make, tmp_path: Path
) -> None:
    seen = []

    def suite() -> None:
        seen.append(read(tmp_path)["under_way"])

    make()._run(suite)
    assert seen == ["suite"]


def test_stage_that_crashed_is_left_out(make: Make, tmp_path: Path) -> None:
    run = make(under_way="serve")
    ran = []
    serve_again = lambda: ran.append("serve")  # noqa: E731
    serve_again.__name__ = "serve"
    run._run(serve_again)
    assert ran == []
    assert run._summary["serve_skipped"] == "it crashed 1 times"


def test_stage_of_points_is_tried_again_a_few_times(make: Make) -> None:
    ran = []
    suite = lambda: ran.append("suite")  # noqa: E731
    suite.__name__ = "suite"
    run = make(under_way="suite", crashes={"suite": 2})
    run._run(suite)
    assert ran == ["suite"]
    run = make(under_way="suite", crashes={"suite": 3})
    run._run(suite)
    assert ran == ["suite"]


@pytest.mark.parametrize("stage", ["plan", "features", "ceilings"])
def test_features_that_crash_are_left_out_from_then_on(
    stage: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEFT_OUT, "")
    assert make(under_way=stage)._summary["left_out"] == ["fp8", "grouped"]
    assert os.environ[LEFT_OUT] == "fp8,grouped"
    # The next process reads it from the folder.
    monkeypatch.setenv(LEFT_OUT, "")
    begin_campaign(tmp_path, after_crash=False, crashing=list)
    assert os.environ[LEFT_OUT] == "fp8,grouped"
    assert read(tmp_path)["left_out"] == ["fp8", "grouped"]


def test_summary_that_cannot_be_read_starts_anew(make: Make, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{half")
    assert make()._summary == {"under_way": "plan"}
