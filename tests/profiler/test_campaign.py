"""Campaigns resume, stop in time, count every point, and recover a known device."""

import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from clusters.fields import InputError
from models.latency.measured import single_gpu_table
from models.latency.profile_build import fit_profile
from models.llm import LlmSpec
from models.profile_records import Environment, Role, Status, StepPoint, StepRecord
from models.profile_table import read_profile_table
from profiler.campaign import CampaignSettings, run_campaign
from profiler.device_lost import DeviceLostError
from profiler.grid import GridLimits, GridPoint, grid_of
from profiler.sections import Section, section_grid
from profiler.subject import Subject, subjects_of
from profiler.timing import SyntheticClock, measure

PAPER = Environment(device="synthetic", device_name="paper", gpu="paper")
LLM = LlmSpec.load("llama-3.1-8b")
SUBJECTS = subjects_of(LLM, (1,), dtype="bf16")
ROOT = Path(__file__).resolve().parents[2]


def slowdown(phase: str, share: float) -> float:
    """On a share of the SMs: all of it for prompts, a fifth of it for decodes."""
    return 1.0 + (1.0 if phase == "prefill" else 0.2) * (1.0 / share - 1.0)


def law_ms(subject: Subject, point: StepPoint) -> float:
    """A layer, or the ends: weights are streamed, then products decide."""
    if subject.is_ends:
        return 0.3 + 2e-3 * (point.num_decodes + len(point.new_tokens))
    tokens = point.prompt_tokens
    ms = max(0.12, 0.12 * tokens / 200) if tokens else 0.0
    ms += 2e-4 * tokens + 3e-8 * point.squares
    if point.num_decodes:
        ms += 0.12 + 4e-4 * point.num_decodes + 1e-6 * point.kv_tokens
    return ms


@dataclass
class Paper:
    """A device that follows `law_ms`, with noise."""

    noise: float = 0.0
    seed: int = 0
    seconds_a_point: float = 0.0
    environment: Environment = PAPER
    measured: list[str] = field(default_factory=list)
    clock_s: float = 0.0

    def grid(
        self, subject: Subject, limits: GridLimits, section: Section
    ) -> tuple[GridPoint, ...]:
        return section_grid(subject.part, limits, section, sm_shares=(0.5,))

    def measure(self, subject: Subject, target: GridPoint) -> StepRecord:
        key = subject.key_of(target.point, target.sm_share_frac)
        self.measured.append(key)
        self.clock_s += self.seconds_a_point
        # Seeded by the point: what is measured does not depend on what came before.
        rng = np.random.default_rng([self.seed, *key.encode()])
        clock = SyntheticClock(rng=rng, noise_frac=self.noise, outlier_frac=0.01)
        ms = law_ms(subject, target.point)
        ms *= slowdown(target.point.phase, target.sm_share_frac)
        found = measure(lambda: ms, clock)
        return StepRecord(
            environment=self.environment,
            llm=subject.llm,
            tp=subject.tp,
            part=subject.part,
            dtype=subject.dtype,
            sm_share_frac=target.sm_share_frac,
            point=target.point,
            role=target.role,
            status=Status.OK,
            step=found.spread,
        )

    def now_s(self) -> float:
        return self.clock_s


def test_known_device_is_recovered_by_campaign_and_fit(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    run_campaign(SUBJECTS, Paper(noise=0.03), path)
    profile = fit_profile(read_profile_table(path))
    table = single_gpu_table(profile, LLM)
    layer, ends = SUBJECTS
    errors = []
    for tokens in (100, 300, 700, 1300, 3000, 6000):
        point = StepPoint(new_tokens=(tokens,))
        truth = 32 * law_ms(layer, point) + law_ms(ends, point)
        errors.append(abs(table.prefill_step_ms([tokens]) / truth - 1.0))
    for batch in (1, 3, 12, 24, 48, 100, 200):
        point = StepPoint(num_decodes=batch, kv_tokens=1000.0 * batch)
        truth = 32 * law_ms(layer, point) + law_ms(ends, point)
        errors.append(abs(table.decode_step_ms(batch, 1000 * batch) / truth - 1.0))
    assert np.median(errors) < 0.02
    assert max(errors) < 0.06


def test_every_point_is_counted(tmp_path: Path) -> None:
    paper = Paper(seconds_a_point=1.0)
    settings = CampaignSettings(budget_s=40.0, max_refinements=0)
    summary = run_campaign(
        SUBJECTS, paper, tmp_path / "r.jsonl", settings=settings, now_s=paper.now_s
    )
    assert summary.num_over_budget > 0
    total = summary.num_resumed + summary.num_measured + summary.num_over_budget
    assert total == summary.num_grid


def test_budget_is_shared_so_that_no_part_is_left_without_points(
    tmp_path: Path,
) -> None:
    paper = Paper(seconds_a_point=1.0)
    settings = CampaignSettings(budget_s=40.0, max_refinements=0)
    path = tmp_path / "r.jsonl"
    run_campaign(SUBJECTS, paper, path, settings=settings, now_s=paper.now_s)
    assert paper.clock_s <= 41.0
    parts = [record.part for record in read_profile_table(path).steps]
    # 40 s shared 1 : 0.4 leave 11.4 s for the ends, whose grid has 11 points.
    assert parts.count("ends") >= 10
    assert parts.count("dense") >= 25


def test_second_run_measures_nothing_again(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    first = run_campaign(SUBJECTS, Paper(), path)
    paper = Paper()
    second = run_campaign(SUBJECTS, paper, path)
    assert paper.measured == []
    assert second.num_resumed == first.num_grid


def test_interrupted_and_resumed_campaign_gives_the_same_table(tmp_path: Path) -> None:
    whole, pieces = tmp_path / "whole.jsonl", tmp_path / "pieces.jsonl"
    run_campaign(SUBJECTS, Paper(noise=0.03), whole)
    text = whole.read_bytes()
    # Killed in the middle of the 20th record.
    cut = [i for i, byte in enumerate(text) if byte == ord("\n")][18] + 100
    pieces.write_bytes(text[:cut])
    run_campaign(SUBJECTS, Paper(noise=0.03), pieces)
    assert pieces.read_bytes() == text


@pytest.mark.slow
def test_campaign_killed_at_any_moment_loses_at_most_a_point(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys, time
            sys.path[:0] = [{str(ROOT)!r}]
            from importlib.util import module_from_spec, spec_from_file_location
            spec = spec_from_file_location("law", {str(Path(__file__))!r})
            law = sys.modules["law"] = module_from_spec(spec)
            spec.loader.exec_module(law)
            class Slow(law.Paper):
                def measure(self, subject, target):
                    time.sleep(0.01)
                    return super().measure(subject, target)
            law.run_campaign(law.SUBJECTS, Slow(noise=0.03), sys.argv[1])
            """
        )
    )
    kills = 0
    for delay in (0.05, 0.12, 0.2):
        process = subprocess.Popen([sys.executable, str(script), str(path)])
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert read_profile_table(
            path
        ).problems == () or not path.read_bytes().endswith(b"\n")
    assert kills > 0
    run_campaign(SUBJECTS, Paper(noise=0.03), path)
    run_campaign(SUBJECTS, Paper(noise=0.03), tmp_path / "whole.jsonl")
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def noted(path: Path) -> Path:
    return Path(f"{path}.under_way")


def test_point_that_crashed_a_process_is_recorded_and_not_tried_again(
    tmp_path: Path,
) -> None:
    class Crashing(Paper):
        """Its process ends at the fifth point, as a faulting kernel would end it."""

        def measure(self, subject: Subject, target: GridPoint) -> StepRecord:
            if len(self.measured) == 4:
                raise KeyboardInterrupt
            return super().measure(subject, target)

    path = tmp_path / "r.jsonl"
    settings = CampaignSettings(max_refinements=0)
    with pytest.raises(KeyboardInterrupt):
        run_campaign(SUBJECTS[:1], Crashing(), path, settings=settings)
    key = noted(path).read_text()
    again = Paper()
    run_campaign(SUBJECTS[:1], again, path, settings=settings, after_crash=True)
    assert key not in again.measured
    (left,) = [r for r in read_profile_table(path).steps if r.step is None]
    assert (left.key, left.status) == (key, Status.NOT_MEASURED)
    assert left.note == "the process ended while it was measured"
    assert not noted(path).exists()


def test_point_under_way_when_somebody_stopped_a_campaign_is_measured(
    tmp_path: Path,
) -> None:
    path = tmp_path / "r.jsonl"
    settings = CampaignSettings(max_refinements=0)
    first = SUBJECTS[0].key_of(grid_of("dense", GridLimits())[0].point)
    noted(path).write_text(first)
    run_campaign(SUBJECTS[:1], Paper(), path, settings=settings)
    assert all(r.status is Status.OK for r in read_profile_table(path).steps)


def test_device_that_is_lost_ends_a_campaign_with_its_record(tmp_path: Path) -> None:
    class Lost(Paper):
        """An illegal access at the fifth point."""

        def measure(self, subject: Subject, target: GridPoint) -> StepRecord:
            if len(self.measured) == 4:
                note = "illegal memory access"
                raise DeviceLostError(subject.unmeasured(target, PAPER, note=note))
            return super().measure(subject, target)

    path = tmp_path / "r.jsonl"
    settings = CampaignSettings(max_refinements=0)
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        run_campaign(SUBJECTS[:1], Lost(), path, settings=settings)
    steps = read_profile_table(path).steps
    assert [r.status for r in steps] == [Status.OK] * 4 + [Status.NOT_MEASURED]
    again = Paper()
    run_campaign(SUBJECTS[:1], again, path, settings=settings, after_crash=True)
    assert steps[-1].key not in again.measured


def test_looks_at_fitted_points_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    settings = CampaignSettings(
        max_refinements=0, sections=(Section.STEPS, Section.SM_SHARE)
    )
    paper = Paper()
    run_campaign(SUBJECTS[:1], paper, path, settings=settings)
    steps = read_profile_table(path).steps
    assert len(steps) == len(paper.measured) == len({r.key for r in steps})
    # The points of the section are fitted points: only those on a share are looks.
    shares = [r.sm_share_frac for r in steps if r.role is Role.PROBE]
    assert shares.count(0.5) == 6
    edges = [r.point.prompt_tokens for r in steps if r.role is Role.PROBE]
    assert {257, 513, 1025, 2049} <= set(edges)


def test_campaign_with_all_sections_fits_laws_and_slowdowns(tmp_path: Path) -> None:
    """Mixed steps and shares do not disturb the tables of the whole device."""
    plain, whole = tmp_path / "plain.jsonl", tmp_path / "whole.jsonl"
    run_campaign(SUBJECTS, Paper(), plain)
    sections = (Section.STEPS, Section.MIXED, Section.SM_SHARE)
    run_campaign(SUBJECTS, Paper(), whole, settings=CampaignSettings(sections=sections))
    (alone,) = fit_profile(read_profile_table(plain)).models
    (model,) = fit_profile(read_profile_table(whole)).models
    tables = [replace(part.table, mixed=None) for part in model.parts]
    assert tables == [part.table for part in alone.parts]
    layer, ends = model.parts
    # The device on paper runs a mixed step as two: the sum is its law.
    assert layer.mixed is not None
    assert layer.mixed.num_points == 11
    assert layer.mixed.sum.median_frac == pytest.approx(0.0, abs=1e-9)
    assert layer.mixed.shared.measured_to_law > 1.05
    assert layer.mixed.max.measured_to_law > 1.05
    # So the law that shares all linears is not what is simulated of it.
    assert layer.mixed.is_simulated
    assert layer.mixed.unshared_linear_frac > 0.1
    assert layer.mixed.fitted is not None
    assert layer.mixed.fitted.p90_frac < 0.7 * layer.mixed.shared.p90_frac
    assert ends.mixed is None
    assert ends.table.mixed is None
    assert {s.sm_share_frac for s in model.sm_shares} == {0.5}
    slowdowns = [(s.phase, s.num_requests, s.slowdown) for s in model.sm_shares]
    assert slowdowns == [
        ("prefill", 1, pytest.approx(2.0)),
        *(("decode", batch, pytest.approx(1.2)) for batch in (8, 64, 256)),
    ]


def test_fit_that_misses_gets_more_points(tmp_path: Path) -> None:
    class Stepped(Paper):
        """Decode doubles from 40 requests on, between two points of the grid."""

        def measure(self, subject: Subject, target: GridPoint) -> StepRecord:
            found = super().measure(subject, target)
            if target.point.num_decodes < 40 or found.step is None:
                return found
            return replace(found, step=replace(found.step, ms=2 * found.step.ms))

    path = tmp_path / "r.jsonl"
    summary = run_campaign(SUBJECTS[:1], Stepped(), path)
    assert summary.num_refined > 0
    batches = {
        r.point.num_decodes
        for r in read_profile_table(path).steps
        if r.role is Role.FIT
    }
    known = {
        each.point.num_decodes
        for each in grid_of("dense", GridLimits())
        if each.role is Role.FIT
    }
    # The new points are around the step.
    assert any(20 <= batch <= 60 for batch in batches - known)


def test_records_of_another_device_are_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    settings = CampaignSettings(max_refinements=0)
    run_campaign(SUBJECTS[1:], Paper(), path, settings=settings)
    other = Paper(environment=replace(PAPER, driver="999"))
    with pytest.raises(InputError, match=r"environment.driver"):
        run_campaign(SUBJECTS[1:], other, path)


def test_unwritable_output_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    paper = Paper()
    with pytest.raises(InputError, match="can be written"):
        run_campaign(SUBJECTS, paper, tmp_path / "none" / "r.jsonl")
    assert paper.measured == []


def test_corrupt_line_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    settings = CampaignSettings(max_refinements=0)
    run_campaign(SUBJECTS[1:], Paper(), path, settings=settings)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(["garbage\n", *lines[1:]]))
    paper = Paper()
    run_campaign(SUBJECTS[1:], paper, path, settings=settings)
    assert len(paper.measured) == 1
