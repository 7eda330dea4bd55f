"""`phaseplan profile`: measure, fit and show; commands that prove it are beside it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clusters.fields import InputError, spec
from planner.cli.output import (
    FormatOption,
    OutputFormat,
    OutputOption,
    QuietOption,
    emit,
    say,
)

if TYPE_CHECKING:
    from profiler.campaign import CampaignSettings
    from profiler.environment import Device
    from profiler.subject import Subject

app = typer.Typer(
    help="Measure prefill and decode on a GPU, fit, and prove the fit.",
    no_args_is_help=True,
)

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|)")
_SECONDS = {"s": 1.0, "": 1.0, "m": 60.0, "h": 60.0 * 60.0}

ModelArgument = Annotated[
    str, typer.Argument(help="Catalogue name, or the path of a config.json.")
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="cuda, cuda:N, cpu, or auto.")
]
DtypeOption = Annotated[
    str, typer.Option("--dtype", help="Activations: bf16, fp16 or fp32.")
]
GpuOption = Annotated[
    str | None,
    typer.Option("--gpu", help="GPU type the profile stands for; default: found."),
]
CiOption = Annotated[
    float,
    typer.Option("--target-ci", min=0.001, help="Half width of a median's interval."),
]


def duration_s(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``8m`` or ``1h``.

    Raises
    ------
    InputError
        On anything else.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None or float(found.group(1)) <= 0:
        raise InputError("--budget", text, "a duration such as 90s, 8m or 1h")
    return float(found.group(1)) * _SECONDS[found.group(2)]


def open_device(name: str) -> "Device":
    """The device to measure on.

    Raises
    ------
    InputError
        When torch is not installed, or there is no such device.
    """
    try:
        from profiler.environment import Device
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        form = "torch to be installed: pip install 'phaseplan[profile]'"
        raise InputError("profile", "no torch", form) from None
    return Device.open(name)


@app.command()
def run(
    model: Annotated[
        str | None,
        typer.Argument(help="Catalogue name, or the path of a config.json."),
    ] = None,
    records: Annotated[
        Path, typer.Option("--records", "-r", help="File to append records to.")
    ] = Path("records.jsonl"),
    suite: Annotated[
        str | None,
        typer.Option(help="Instead of a model: quick, or full (shipped models)."),
    ] = None,
    tp: Annotated[
        str | None, typer.Option(help="Shards to measure, e.g. 1,2,4; default: 1.")
    ] = None,
    device: DeviceOption = "cuda",
    dtype: DtypeOption = "bf16",
    budget: Annotated[str, typer.Option(help="Time to spend: 90s, 8m.")] = "8m",
    max_prompt_tokens: Annotated[
        int, typer.Option(min=64, help="Most new prompt tokens of a step.")
    ] = 8192,
    max_context_tokens: Annotated[
        int, typer.Option(min=32, help="Longest context of a decode.")
    ] = 8192,
    max_requests: Annotated[
        int, typer.Option(min=4, help="Largest decode batch.")
    ] = 256,
    max_kv_tokens: Annotated[
        int, typer.Option(min=64, help="Most tokens a decode step attends to.")
    ] = 524288,
    gpu: GpuOption = None,
    target_ci: CiOption = 0.02,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Prompt chunks with decodes as well.")
    ] = False,
    sm_share: Annotated[
        str | None,
        typer.Option(help="Shares of the SMs to measure too: auto, or 0.3,0.5."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the points, measure nothing.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a model's layers; started again on the same file it goes on.

    Every record is on the disk before the next point starts.
    """
    from planner.cli.profile_subjects import found_gpu, list_points, wanted_subjects
    from profiler.campaign import CampaignSettings
    from profiler.grid import GridLimits
    from profiler.sections import Section

    limits = GridLimits(
        max_prompt_tokens=max_prompt_tokens,
        max_past_tokens=2 * max_prompt_tokens,
        max_context_tokens=max_context_tokens,
        max_requests=max_requests,
        max_kv_tokens=max_kv_tokens,
    )
    sections = (Section.STEPS, Section.MIXED) if mixed else (Section.STEPS,)
    settings = CampaignSettings(
        budget_s=duration_s(budget), limits=limits, sections=sections
    )
    shares = None if sm_share is None else share_list(sm_share)
    if dry_run:
        subjects = wanted_subjects(model, suite, tp=tp, dtype=dtype, device=None)
        list_points(subjects, settings, found_gpu(device, gpu))
        return
    chosen = open_device(device)
    subjects = wanted_subjects(model, suite, tp=tp, dtype=dtype, device=chosen)
    wanted = Measurement(
        records=records, gpu=gpu, target_ci=target_ci, sm_shares=shares, quiet=quiet
    )
    _measure(chosen, subjects, settings, wanted)


def share_list(text: str) -> tuple[float, ...]:
    """Shares of the SMs of ``auto`` or ``0.3,0.5``.

    Raises
    ------
    InputError
        When one is not between 0 and 1.
    """
    from profiler.sections import SM_SHARES

    if text == "auto":
        return SM_SHARES
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0.0 < share < 1.0 for share in found):
        raise InputError("--sm-share", text, "auto, or shares between 0 and 1")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What `profile run` was asked beside model and grid."""

    records: Path
    gpu: str | None
    target_ci: float = spec("Wanted width of the interval.", unit="1")
    sm_shares: tuple[float, ...] | None = spec("Shares of SMs.", unit="1")
    quiet: bool


def _measure(
    device: "Device",
    subjects: tuple["Subject", ...],
    settings: "CampaignSettings",
    wanted: Measurement,
) -> None:
    from planner.cli.profile_tables import summary_line
    from planner.cli.progress import progress
    from profiler.campaign import Progress, run_campaign
    from profiler.ceilings import append_ceilings
    from profiler.environment import other_users
    from profiler.measurer import TorchMeasurer
    from profiler.sm_share_campaign import measure_sm_shares
    from profiler.timing import TimingSettings

    timing = TimingSettings(target_ci_frac=wanted.target_ci)
    records, gpu, quiet = wanted.records, wanted.gpu, wanted.quiet
    others = other_users(device)
    if others:
        say(others, label="warning", style="yellow", quiet=quiet)
    measurer = TorchMeasurer(device, dtype=subjects[0].dtype, timing=timing, gpu=gpu)
    with progress(quiet=quiet) as show:

        def tell(p: Progress) -> None:
            show(f"{p.done}/{p.total} {p.label} ({p.left_s:.0f} s)")

        append_ceilings(device, records, timing=timing, gpu=gpu)
        summary = run_campaign(
            subjects, measurer, records, settings=settings, progress=tell
        )
        say(f"{records}: {summary_line(summary)}", quiet=quiet)
        if wanted.sm_shares is not None:
            outcome = measure_sm_shares(
                device,
                [subject for subject in subjects if not subject.is_ends],
                records,
                settings=settings,
                timing=timing,
                gpu=gpu,
                shares=wanted.sm_shares,
                progress=tell,
            )
            say(f"SM shares: {outcome.describe()}", quiet=quiet)


@app.command()
def fit(
    records: Annotated[Path, typer.Argument(help="Records (JSON lines).")],
    output: OutputOption = None,
    gpu: GpuOption = None,
    with_unstable: Annotated[
        bool, typer.Option("--with-unstable", help="Use samples that did not settle.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Fit step tables to records; `-o` writes the profile, the errors are printed."""
    from clusters.serde import write_text_atomic
    from models.latency.profile_build import fit_profile
    from models.profile_table import read_profile_table
    from planner.cli.output import stdout_console
    from planner.cli.profile_tables import profile_report

    table = read_profile_table(records)
    for problem in table.problems:
        say(problem, label="warning", style="yellow", quiet=quiet)
    profile = fit_profile(table.with_unstable() if with_unstable else table, gpu=gpu)
    if output is not None:
        write_text_atomic(output, profile.to_json())
    stdout_console().print(profile_report(profile))


@app.command()
def show(
    profile: Annotated[Path, typer.Argument(help="Profile (JSON).")],
    fmt: FormatOption = None,
    output: OutputOption = None,
) -> None:
    """Show a profile: where it was measured, what it covers, how far it errs."""
    from clusters.mapping import to_mapping
    from models.latency.profile import Profile
    from planner.cli.profile_tables import profile_report

    found = Profile.load(profile)
    emit(
        to_mapping(found),
        fmt=fmt if output is None else fmt or OutputFormat.JSON,
        table=lambda: profile_report(found),
        output=output,
    )
