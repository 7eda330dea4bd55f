"""The stages of a campaign: each leaves its files before the next one starts.

`records.jsonl` and `repeat.jsonl` grow while points are measured and are compressed at
the end; `served.json.gz` holds the runs of the engine; `profile.json`,
`validation.json`, `summary.md` and `plots.png` follow from these. `summary.json` says
what each stage did, and is what a resumed campaign starts from.
"""

import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clusters.fields import spec
from clusters.units import GIB
from planner.cli.output import say
from planner.cli.profile_folder import pack, unpack, write_summary
from planner.cli.profile_simulator import SimulatorCompiler

if TYPE_CHECKING:
    from models.latency.profile import Profile
    from profiler.campaign import CampaignSettings, Progress
    from profiler.campaign_plan import CampaignPlan
    from profiler.environment import Device
    from profiler.measurer import TorchMeasurer
    from profiler.sections import Section
    from profiler.subject import Subject
    from profiler.timing import TimingSettings

DEVICE_LOST_CODE = 75
"""Exit code (EX_TEMPFAIL): the device is lost, a new process may go on."""

_RESERVE_FRAC = 0.04
"""Of the whole time, what is kept for fitting and the report."""
_LEAST_S = 1.0
_OWN_BYTES = 4 * GIB
"""Beside its tensors, what a campaign may hold of the device after its first stage."""
_COMPILER_FRAC = 0.04
"""Of the whole time, what serving waits for the simulator's compiler."""
_LEAST_PREDICT_S = 10.0
"""For the same, what the prediction waits even when the time is over."""
_MAX_CRASHES = {"main": 4, "suite": 4, "features": 2, "ceilings": 2}
"""Crashes of a stage after which it is left out, 1 where not said: a point that crashed
is not tried again, but a stage without points would only crash once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Where a campaign goes, and how."""

    out: Path
    gpu: str | None
    target_ci: float = spec("Wanted half width of an interval.", unit="1")
    sm_share: str
    after_crash: bool
    report_only: bool
    quiet: bool


class CampaignRun:
    """One run of a campaign.

    `summary` is what the runs before it said, as `begin_campaign` left it.
    """

    def __init__(
        self,
        device: "Device",
        plan: "CampaignPlan",
        options: RunOptions,
        summary: dict[str, Any],
    ) -> None:
        self._device, self._plan, self._options = device, plan, options
        self._out = options.out
        self._started_s = time.monotonic()
        self._summary = summary

    def all(self) -> None:
        """Every stage in order; a stage that fails is told and the next one runs."""
        unpack(self._out)
        simulator = self._simulator
        measured = (
            self.features,
            self.ceilings,
            self.main,
            self.fit,
            self.serve,
            self.suite,
            self.sm_share,
            self.repeat,
        )
        try:
            for stage in () if self._options.report_only else measured:
                self._run(stage)
            for stage in (self.fit, self.predict, self.report):
                self._run(stage)
        finally:
            simulator.end()
        pack(self._out)
        self._summary.pop("under_way", None)
        self._write_summary()

    @cached_property
    def _simulator(self) -> SimulatorCompiler:
        """Compiles beside the stages from the start."""
        return SimulatorCompiler()

    def _run(self, stage: Callable[[], None]) -> None:
        from profiler.device_lost import DeviceLostError
        from profiler.kernel_errors import KERNEL_ERRORS

        # Unattended: what was measured must be fitted even if a stage breaks.
        breaks: tuple[type[Exception], ...] = (*KERNEL_ERRORS, ArithmeticError)
        name, began = stage.__name__, time.monotonic()
        crashes = self._summary.get("crashes", {}).get(name, 0)
        if crashes >= _MAX_CRASHES.get(name, 1):
            self._summary[f"{name}_skipped"] = f"it crashed {crashes} times"
            return
        self._tell(f"{name} ...")
        self._summary.pop(f"{name}_failed", None)
        self._summary["under_way"] = name
        self._write_summary()
        try:
            self._look_around(name)
            stage()
        except DeviceLostError as error:
            self._end_lost(name, str(error))
        except breaks as error:
            self._summary[f"{name}_failed"] = traceback.format_exc()
            self._tell(f"{name} failed: {type(error).__name__}: {error}")
            if not self._device.is_usable():
                self._end_lost(name, traceback.format_exc())
        self._summary[f"{name}_s"] = round(time.monotonic() - began, 1)
        self._write_summary()

    def _look_around(self, name: str) -> None:
        """Note whoever else is on the device: what is measured then is blurred."""
        from profiler.environment import other_users

        # Later on, contexts of SM shares and kernels of all models are loaded.
        others = (
            other_users(self._device)
            if name == self.features.__name__
            else other_users(self._device, own_bytes=_OWN_BYTES)
        )
        if others:
            self._summary.setdefault("other_users", f"{others}, before {name}")
            self._tell(f"warning: {others}")

    def _end_lost(self, name: str, why: str) -> None:
        """End this process: only a new one can use the device again."""
        self._summary[f"{name}_failed"] = why
        self._write_summary()
        self._tell(f"{name}: {why.strip().splitlines()[-1]}")
        raise typer.Exit(DEVICE_LOST_CODE)

    def features(self) -> None:
        """What the device has beside plain kernels, or why not."""
        from profiler.feature_report import feature_report
        from profiler.layers.settings import LayerSettings

        where = self._device.torch_device
        settings = LayerSettings.for_device(where, self._plan.dtype)
        self._summary["features"] = feature_report(settings)

    def ceilings(self) -> None:
        """Copy and matmul, and what a layer's kernels reach of them."""
        from profiler.ceilings import append_ceilings
        from profiler.kernel_rates import append_kernel_rates

        timing, gpu = self._timing, self._options.gpu
        problems = append_ceilings(self._device, self._records, timing=timing, gpu=gpu)
        problems += append_kernel_rates(
            self._device,
            self._plan.main_layers[0],
            self._records,
            limits=self._plan.limits,
            timing=timing,
            gpu=gpu,
        )
        self._summary["rates_missing"] = list(problems)

    def main(self) -> None:
        """The model that is served: its steps, and prompt chunks with decodes."""
        from profiler.sections import Section

        budget_s = self._plan.shares.main * self._plan.total_s
        sections = (Section.STEPS, Section.MIXED)
        self._measure("main", self._plan.main, budget_s, sections)

    def suite(self) -> None:
        """The other models; mixed steps of them with the time that is left over."""
        from profiler.sections import Section

        if not self._plan.rest:
            return
        later = self._plan.shares.sm_share + self._plan.shares.repeat
        ends_s = self._time_left_s() - later * self._plan.total_s
        budget_s = min(ends_s, self._plan.shares.suite * self._plan.total_s)
        began = time.monotonic()
        self._measure("suite", self._plan.rest, budget_s, (Section.STEPS,))
        left_s = budget_s - (time.monotonic() - began)
        layers = [subject for subject in self._plan.rest if not subject.is_ends]
        if left_s > _LEAST_S:
            self._measure("suite_mixed", layers, left_s, (Section.MIXED,))

    def sm_share(self) -> None:
        """Prefill and decode on shares of the SMs, of one layer or of all models'."""
        from profiler.sm_share_campaign import measure_sm_shares

        scope = self._options.sm_share
        if scope == "none":
            self._summary["sm_shares"] = "not asked for"
            return
        subjects = self._plan.main_layers[:1]
        budget_s = self._plan.shares.sm_share * self._plan.total_s
        if scope == "all":
            subjects += tuple(s for s in self._plan.rest if not s.is_ends)
            repeat_s = self._plan.shares.repeat * self._plan.total_s
            budget_s = max(budget_s, self._time_left_s() - repeat_s)
        outcome = measure_sm_shares(
            self._device,
            subjects,
            self._records,
            settings=self._settings(budget_s),
            timing=self._timing,
            gpu=self._options.gpu,
            after_crash=self._options.after_crash,
            progress=self._show,
        )
        self._summary["sm_shares"] = outcome.describe()
        self._tell(f"SM shares {outcome.describe()}")

    def repeat(self) -> None:
        """Points of the first model once more, in a file of their own."""
        from profiler.campaign import run_campaign

        budget_s = self._plan.shares.repeat * self._plan.total_s
        run_campaign(
            self._plan.main_layers[:1],
            self._measurer(),
            self._out / "repeat.jsonl",
            settings=self._settings(budget_s),
            after_crash=self._options.after_crash,
        )

    def fit(self) -> None:
        """``profile.json`` from all records."""
        from clusters.serde import write_text_atomic
        from models.latency.profile_build import fit_profile
        from models.profile_table import read_profile_table

        table = read_profile_table(self._records)
        profile = fit_profile(table, gpu=self._options.gpu, skip_unfitted=True)
        write_text_atomic(self._out / "profile.json", profile.to_json())
        self._summary["problems"] = list(table.problems)

    def serve(self) -> None:
        """``served.json.gz``: traces served by the engine, at every load and policy."""
        from planner.cli.profile_prediction import serve_campaign

        if (self._out / "served.json.gz").exists():
            return
        # A simulator that is not compiled by now must not hold up the device.
        why_rough = self._simulator.why_not_ready(_COMPILER_FRAC * self._plan.total_s)
        if why_rough:
            self._summary["capacity"] = f"predicted roughly: {why_rough}"
            self._tell(f"the simulator does not run here yet: {why_rough}")
        serve_campaign(
            self._device,
            self._plan,
            self._profile(),
            self._out / "served.json.gz",
            self._tell,
            is_rough=why_rough is not None,
        )

    def predict(self) -> None:
        """``validation.json``: the simulator on the traces that were served."""
        from planner.cli.profile_prediction import predict_campaign

        served = self._out / "served.json.gz"
        self._summary.pop("predict_skipped", None)
        if not served.exists():
            self._summary["predict_skipped"] = "nothing was served"
            return
        left_s = self._plan.total_s - (time.monotonic() - self._started_s)
        why_not = self._simulator.why_not_ready(max(_LEAST_PREDICT_S, left_s))
        if why_not:
            self._summary["predict_skipped"] = f"the simulator: {why_not}"
            self._tell(f"not predicted here: {why_not}; {served} can be, elsewhere")
            return
        predict_campaign(self._plan, self._profile(), served, self._out)

    def report(self) -> None:
        """``summary.md``, and plots where matplotlib is installed."""
        from clusters.serde import write_text_atomic
        from profiler.plots import write_plots
        from profiler.report import campaign_report

        text = campaign_report(self._out, self._summary)
        write_text_atomic(self._out / "summary.md", text)
        self._summary["plots"] = write_plots(self._out)

    def _measure(
        self,
        stage: str,
        subjects: Sequence["Subject"],
        budget_s: float,
        sections: tuple["Section", ...],
    ) -> None:
        from dataclasses import replace

        from clusters.mapping import to_mapping
        from planner.cli.profile_tables import summary_line
        from profiler.campaign import run_campaign

        summary = run_campaign(
            subjects,
            self._measurer(),
            self._records,
            settings=replace(self._settings(budget_s), sections=sections),
            after_crash=self._options.after_crash,
            progress=self._show,
        )
        self._summary[stage] = to_mapping(summary)
        self._tell(summary_line(summary))

    def _measurer(self) -> "TorchMeasurer":
        from profiler.measurer import TorchMeasurer

        return TorchMeasurer(
            self._device,
            dtype=self._plan.dtype,
            timing=self._timing,
            gpu=self._options.gpu,
        )

    def _settings(self, budget_s: float) -> "CampaignSettings":
        """Settings of a stage, whose budget is never more than the time left."""
        from profiler.campaign import CampaignSettings

        return CampaignSettings(
            budget_s=max(_LEAST_S, min(budget_s, self._time_left_s())),
            limits=self._plan.limits,
            max_refinements=self._plan.max_refinements,
        )

    @property
    def _timing(self) -> "TimingSettings":
        from profiler.timing import TimingSettings

        return TimingSettings(target_ci_frac=self._options.target_ci, max_s=1.0)

    @property
    def _records(self) -> Path:
        return self._out / "records.jsonl"

    def _profile(self) -> "Profile":
        from models.latency.profile import Profile

        return Profile.load(self._out / "profile.json")

    def _time_left_s(self) -> float:
        """Until the report has to be written."""
        total_s = (1.0 - _RESERVE_FRAC) * self._plan.total_s
        return total_s - (time.monotonic() - self._started_s)

    def _show(self, progress: "Progress") -> None:
        if progress.done % 10 == 0:
            self._tell(
                f"{progress.done}/{progress.total} {progress.label} "
                f"({progress.left_s:.0f} s left)"
            )

    def _tell(self, text: str) -> None:
        elapsed = time.monotonic() - self._started_s
        say(f"[{elapsed:5.0f} s] {text}", quiet=self._options.quiet)
        # Whoever watches over this process sees that it is alive.
        if (self._out / "summary.json").exists():
            os.utime(self._out / "summary.json")

    def _write_summary(self) -> None:
        write_summary(self._out, self._summary)
