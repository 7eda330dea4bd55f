"""A process for each share: confined by its environment, its records join the rest."""

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the profiler needs torch")

from clusters.fields import InputError  # noqa: E402
from models.llm import LlmSpec  # noqa: E402
from models.profile_records import Spread, Status, StepRecord  # noqa: E402
from models.profile_table import read_profile_table, write_profile_table  # noqa: E402
from profiler import sm_share_processes  # noqa: E402
from profiler.environment import Device, environment_of  # noqa: E402
from profiler.grid import GridLimits  # noqa: E402
from profiler.sections import Section, section_grid  # noqa: E402
from profiler.sm_share import num_processors  # noqa: E402
from profiler.sm_share_processes import (  # noqa: E402
    ShareRequest,
    given_shares,
    measure_shares,
    why_no_processes,
)
from profiler.subject import Subject  # noqa: E402
from profiler.timing import TimingSettings  # noqa: E402

CPU = Device(kind="cpu")
LIMITS = GridLimits(
    max_prompt_tokens=64,
    max_past_tokens=0,
    max_requests=8,
    max_context_tokens=64,
    max_kv_tokens=256,
)
QUICK = TimingSettings(target_ci_frac=0.9, max_s=0.05, min_samples=6, num_tries=1)


@pytest.fixture
def request_of(tiny_llm: LlmSpec, tmp_path: Path) -> ShareRequest:
    return ShareRequest(
        subjects=(Subject(llm=tiny_llm, part="dense", dtype="fp32"),),
        limits=LIMITS,
        device="cpu",
        timing=QUICK,
        budget_s=20.0,
        out=str(tmp_path / "share.jsonl"),
    )


def records(request: ShareRequest, ms: float, share: float = 1.0) -> list[StepRecord]:
    """The points of the section, each of which took `ms`."""
    (subject,) = request.subjects
    grid = section_grid("dense", LIMITS, Section.SM_SHARE, sm_shares=(share,))
    spread = Spread(ms=ms, p10_ms=ms, p90_ms=ms, ci_frac=0.0, num_samples=9)
    here = environment_of(CPU)
    return [
        replace(
            subject.unmeasured(target, here, note=""), status=Status.OK, step=spread
        )
        for target in grid
    ]


@pytest.mark.slow
@pytest.mark.skipif(num_processors() < 2, reason="one processor cannot be shared")
def test_process_of_a_share_measures_what_it_was_started_with(
    request_of: ShareRequest, tmp_path: Path
) -> None:
    # On the whole device the steps took next to nothing: any share is slower.
    path, share = tmp_path / "r.jsonl", 1.0 / num_processors()
    write_profile_table(path, records(request_of, 1e-6))
    assert measure_shares(request_of, [share], path) == ()
    table = read_profile_table(path)
    assert table.environment() == environment_of(CPU)
    found = [r for r in table.steps if r.sm_share_frac < 1.0]
    assert {r.sm_share_frac for r in found} == {share}
    assert len(found) == len(table.steps) / 2
    assert all(r.backend.endswith("omp-threads") for r in found)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r.jsonl", "tiny.json"]


def test_share_without_effect_is_told_and_not_recorded(
    request_of: ShareRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretend(request: ShareRequest, share: float, device: Device) -> None:
        write_profile_table(request.out, records(request_of, 1.1, share))

    monkeypatch.setattr(sm_share_processes, "_run_share", pretend)
    path = tmp_path / "r.jsonl"
    write_profile_table(path, records(request_of, 1.0))
    # Half of the device: at least 1 + 0.3 times as long, if it is enforced.
    assert measure_shares(request_of, [0.5], path) == (
        "50% of the SMs: prefill took at most 1.10 times as long, less than 1.30: "
        "the share is not enforced",
    )
    assert {r.sm_share_frac for r in read_profile_table(path).steps} == {1.0}


def test_process_of_another_driver_is_refused(
    request_of: ShareRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(environment_of(CPU), driver="999", num_sms=66)

    def pretend(request: ShareRequest, share: float, device: Device) -> None:
        found = [replace(r, environment=other) for r in records(request_of, 9.0, share)]
        write_profile_table(request.out, found)

    monkeypatch.setattr(sm_share_processes, "_run_share", pretend)
    path = tmp_path / "r.jsonl"
    write_profile_table(path, records(request_of, 1.0))
    with pytest.raises(InputError, match=r"environment\.driver = '999'"):
        measure_shares(request_of, [0.5], path)


def test_process_that_fails_is_told_by_its_exit_code(
    request_of: ShareRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sm_share_processes.sys, "executable", "/bin/false")
    path = tmp_path / "r.jsonl"
    write_profile_table(path, records(request_of, 1.0))
    problems = measure_shares(request_of, [0.5], path)
    assert problems == ("50% of the SMs: exit code 1",)


def test_mps_counts_in_percent_and_threads_in_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sm_share_processes, "num_processors", lambda: 4)
    assert given_shares(CPU, (0.9, 0.5, 0.3, 0.01)) == (0.5, 0.25)
    assert given_shares(Device(kind="cuda"), (0.333, 0.5)) == (0.5, 0.33)


def test_cuda_processes_need_an_mps_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    cuda = Device(kind="cuda")
    assert why_no_processes(cuda) == (
        f"no CUDA MPS server is running (nothing in {tmp_path})"
    )
    (tmp_path / "control").touch()
    assert why_no_processes(cuda) is None
