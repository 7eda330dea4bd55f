"""`phaseplan profile campaign`: everything a GPU machine is borrowed for, in one go."""

import json
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clusters.fields import InputError
from planner.cli.output import QuietOption, say
from planner.cli.profile import (
    CiOption,
    DeviceOption,
    DtypeOption,
    GpuOption,
    app,
    open_device,
)

if TYPE_CHECKING:
    from profiler.campaign_plan import CampaignPlan
    from profiler.environment import Device

_BREAKS = (
    ImportError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_REPEAT_S = 30.0
_NO_SM_SHARE = "not measured: CUDA MPS and green contexts are not driven yet"
_MODEL_HELP = "Instead of the suite: catalogue name, or path of a config.json."


@app.command()
def campaign(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path(
        "campaign"
    ),
    minutes: Annotated[float, typer.Option(min=0.05, help="Time for it all.")] = 8.0,
    suite: Annotated[str, typer.Option(help="quick or full.")] = "full",
    model: Annotated[str | None, typer.Option(help=_MODEL_HELP)] = None,
    device: DeviceOption = "cuda",
    dtype: DtypeOption = "bf16",
    gpu: GpuOption = None,
    target_ci: CiOption = 0.02,
    is_small: Annotated[
        bool, typer.Option("--small", help="Tiny grids, to try it on a CPU.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Ceilings, suite, fit and validation into a folder; goes on where it stopped."""
    from profiler.campaign_plan import plan_campaign

    chosen = open_device(device)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        form = f"a folder that can be written ({error.strerror})"
        raise InputError("--out", str(out), form) from None
    plan = plan_campaign(
        chosen, suite=suite, model=model, dtype=dtype, minutes=minutes, small=is_small
    )
    Run(chosen, plan, out, gpu, target_ci, quiet).all()


class Run:
    """One run: its stages, each leaving its files before the next starts."""

    def __init__(
        self,
        device: "Device",
        plan: "CampaignPlan",
        out: Path,
        gpu: str | None,
        target_ci: float,
        quiet: bool,
    ) -> None:
        self._device, self._plan, self._out = device, plan, out
        self._gpu, self._target_ci, self._quiet = gpu, target_ci, quiet
        self._started_s = time.monotonic()
        self._summary: dict[str, Any] = {"sm_share": _NO_SM_SHARE}

    def all(self) -> None:
        """Every stage in order; a stage that fails is told and the next one runs."""
        for name in ("measure", "shares", "fit", "validate", "repeat", "report"):
            began = time.monotonic()
            self._tell(f"{name} ...")
            try:
                getattr(self, name)()
            # Unattended: what was measured must be fitted even if a stage breaks.
            except _BREAKS as error:
                self._summary[f"{name}_failed"] = traceback.format_exc()
                self._tell(f"{name} failed: {type(error).__name__}: {error}")
            self._summary[f"{name}_s"] = round(time.monotonic() - began, 1)
            self._write_summary()

    def measure(self) -> None:
        """Ceilings and the suite's grid, appended to ``records.jsonl``."""
        from clusters.mapping import to_mapping
        from planner.cli.profile_tables import summary_line
        from profiler.campaign import run_campaign
        from profiler.ceilings import append_ceilings
        from profiler.environment import other_users
        from profiler.measurer import TorchMeasurer
        from profiler.timing import TimingSettings

        timing = TimingSettings(target_ci_frac=self._target_ci, max_s=1.0)
        others = other_users(self._device)
        if others:
            self._summary["other_users"] = others
            self._tell(f"warning: {others}")
        append_ceilings(self._device, self._records, timing=timing, gpu=self._gpu)
        measurer = TorchMeasurer(
            self._device, dtype=self._plan.dtype, timing=timing, gpu=self._gpu
        )
        summary = run_campaign(
            self._plan.subjects,
            measurer,
            self._records,
            settings=self._plan.settings,
            progress=self._show,
        )
        self._summary["campaign"] = to_mapping(summary)
        self._tell(summary_line(summary))

    def shares(self) -> None:
        """What the layer's kernels reach of the ceilings, appended to the records."""
        from profiler.shares import append_shares
        from profiler.timing import TimingSettings

        timing = TimingSettings(target_ci_frac=self._target_ci, max_s=1.0)
        subject = self._plan.subjects[0]
        append_shares(
            self._device,
            subject,
            self._records,
            timing=timing,
            gpu=self._gpu,
            limits=self._plan.settings.limits,
        )

    def repeat(self) -> None:
        """``repeat.jsonl``: points of the first subject once more."""
        from dataclasses import replace

        from profiler.campaign import run_campaign
        from profiler.measurer import TorchMeasurer
        from profiler.timing import TimingSettings

        timing = TimingSettings(target_ci_frac=self._target_ci, max_s=1.0)
        measurer = TorchMeasurer(
            self._device, dtype=self._plan.dtype, timing=timing, gpu=self._gpu
        )
        budget_s = min(_REPEAT_S, 0.1 * self._plan.settings.budget_s)
        run_campaign(
            self._plan.subjects[:1],
            measurer,
            self._out / "repeat.jsonl",
            settings=replace(self._plan.settings, budget_s=budget_s, max_refinements=0),
        )

    def fit(self) -> None:
        """``profile.json`` from all records."""
        from clusters.serde import write_text_atomic
        from models.latency.profile_build import fit_profile
        from models.profile_table import read_profile_table

        table = read_profile_table(self._records)
        profile = fit_profile(table, gpu=self._gpu, skip_unfitted=True)
        write_text_atomic(self._out / "profile.json", profile.to_json())
        self._summary["problems"] = list(table.problems)

    def validate(self) -> None:
        """``validation.json``: the engine on the device against the simulator."""
        from clusters.mapping import to_mapping
        from clusters.serde import dump_json, write_text_atomic
        from models.latency.profile import Profile
        from planner.cli.profile_validate import (
            build_engine,
            calibrated_table,
            validate_levels,
        )

        try:
            import numba  # noqa: F401
        except ImportError as error:  # not there, or too old for this NumPy
            self._summary["validate_skipped"] = f"the simulator needs numba: {error}"
            self._tell(f"validate skipped: the simulator needs numba ({error})")
            return
        wanted = self._plan.validation
        profile = Profile.load(self._out / "profile.json")
        llm = self._plan.subjects[0].llm
        engine = build_engine(llm, self._device, self._plan.dtype, wanted.limits)
        self._summary["engine"] = engine.backend
        self._tell(f"engine: {engine.backend}")
        table = calibrated_table(profile, engine, self._device, self._plan.dtype)
        levels = validate_levels(engine, table, wanted, self._tell)
        write_text_atomic(
            self._out / "validation.json", dump_json({"levels": to_mapping(levels)})
        )

    def report(self) -> None:
        """``report.md``, and plots where matplotlib is installed."""
        from clusters.serde import write_text_atomic
        from profiler.report import campaign_report, write_plots

        text = campaign_report(self._out)
        write_text_atomic(self._out / "report.md", text)
        self._summary["plots"] = write_plots(self._out)

    @property
    def _records(self) -> Path:
        return self._out / "records.jsonl"

    def _show(self, progress: Any) -> None:
        if progress.done % 10 == 0:
            self._tell(
                f"{progress.done}/{progress.total} {progress.label} "
                f"({progress.left_s:.0f} s left)"
            )

    def _tell(self, text: str) -> None:
        elapsed = time.monotonic() - self._started_s
        say(f"[{elapsed:5.0f} s] {text}", quiet=self._quiet)

    def _write_summary(self) -> None:
        text = json.dumps(self._summary, indent=2, allow_nan=False, default=str)
        (self._out / "summary.json").write_text(text + "\n", encoding="utf-8")
