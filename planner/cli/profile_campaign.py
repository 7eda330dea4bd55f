"""`phaseplan profile campaign`: everything a GPU machine is borrowed for, in one go."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from clusters.fields import InputError
from planner.cli.output import QuietOption, say
from planner.cli.profile import CiOption, DeviceOption, DtypeOption, GpuOption, app

_MODEL_HELP = "Instead of the suite: catalogue name, or path of a config.json."


class SmShareScope(StrEnum):
    """Which models of a campaign are measured on shares of the SMs."""

    NONE = "none"
    FIRST = "first"
    ALL = "all"


SuiteOption = Annotated[str, typer.Option(help="quick or full.")]
SmallOption = Annotated[
    bool, typer.Option("--small", help="Tiny grids, to try it on a CPU.")
]
SubjectModelOption = Annotated[str | None, typer.Option("--model", help=_MODEL_HELP)]


@app.command()
def campaign(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path(
        "campaign"
    ),
    minutes: Annotated[float, typer.Option(min=0.05, help="Time for it all.")] = 8.0,
    suite: SuiteOption = "full",
    model: SubjectModelOption = None,
    device: DeviceOption = "cuda",
    dtype: DtypeOption = "bf16",
    gpu: GpuOption = None,
    target_ci: CiOption = 0.02,
    sm_share: Annotated[
        SmShareScope, typer.Option(help="Models to measure on shares of the SMs.")
    ] = SmShareScope.FIRST,
    is_small: SmallOption = False,
    after_crash: Annotated[
        bool, typer.Option("--after-crash", help="The run before this one crashed.")
    ] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Fit and report what is there.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what is measured, measure nothing.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Ceilings, suite, fit and validation into a folder; goes on where it stopped.

    Ends with code 75 when the device is lost: then start it again.
    """
    from planner.cli.profile import open_device
    from planner.cli.profile_folder import begin_campaign
    from planner.cli.profile_smoke import crashing_features
    from planner.cli.profile_subjects import found_gpu, list_subjects, wanted_subjects
    from profiler.grid import GridLimits
    from profiler.suite import SMALL_LIMITS

    if dry_run:
        subjects = wanted_subjects(
            model, None if model else suite, tp=None, dtype=dtype, device=None
        )
        limits = SMALL_LIMITS if is_small else GridLimits()
        budget_s = minutes * 60.0
        list_subjects(subjects, limits, gpu=found_gpu(device, gpu), budget_s=budget_s)
        return
    chosen = open_device(device)
    from planner.cli.profile_stages import CampaignRun, RunOptions
    from profiler.campaign_plan import plan_campaign
    from profiler.features import LEFT_OUT, Feature

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        form = f"a folder that can be written ({error.strerror})"
        raise InputError("--out", str(out), form) from None
    summary = begin_campaign(
        out,
        after_crash=after_crash,
        crashing=lambda: crashing_features(chosen, dtype),
    )
    if report_only:
        # Nothing is measured: nothing needs to be tried.
        os.environ[LEFT_OUT] = ",".join(Feature)
    plan = plan_campaign(
        chosen, suite=suite, model=model, dtype=dtype, minutes=minutes, small=is_small
    )
    options = RunOptions(
        out=out,
        gpu=gpu,
        target_ci=target_ci,
        sm_share=sm_share,
        after_crash=after_crash,
        report_only=report_only,
        quiet=quiet,
    )
    CampaignRun(chosen, plan, options, summary).all()


@app.command("smoke")
def smoke_command(
    suite: SuiteOption = "full",
    model: SubjectModelOption = None,
    device: DeviceOption = "cuda",
    dtype: DtypeOption = "bf16",
    seconds: Annotated[float, typer.Option(min=5.0, help="Time for it all.")] = 55.0,
    is_small: SmallOption = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Results (JSON) as well.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Touch everything that a campaign needs once: what works, and why not.

    Ends with code 1 when something failed; a campaign does without it.
    """
    import tempfile

    from clusters.mapping import to_mapping
    from clusters.serde import dump_json, write_text_atomic
    from planner.cli.output import stdout_console
    from planner.cli.profile import open_device
    from planner.cli.profile_smoke import (
        SimulatorProbe,
        host_probes,
        smoke_subjects,
        smoke_table,
    )
    from profiler.grid import GridLimits
    from profiler.smoke import Outcome, ProbeResult, SmokeRequest, smoke

    subjects = smoke_subjects(open_device(device), suite, model, dtype)
    most = (256, 4, 64) if is_small else (2048, 64, 65536)
    limits = GridLimits(
        max_prompt_tokens=most[0],
        max_past_tokens=0,
        max_requests=most[1],
        max_kv_tokens=most[2],
    )

    def show(result: ProbeResult) -> None:
        say(f"{result.name}: {result.outcome} {result.detail}", quiet=quiet)

    simulator, hosts = SimulatorProbe(), host_probes()
    for result in hosts:
        show(result)
    with tempfile.TemporaryDirectory() as folder:
        request = SmokeRequest(
            subjects=subjects,
            limits=limits,
            device=device,
            dtype=dtype,
            out=str(Path(folder) / "results.json"),
        )
        found = smoke(request, max_s=seconds, show=show)
    results = (*hosts, *found, simulator.result(seconds))
    if output is not None:
        write_text_atomic(output, dump_json(to_mapping(results)))
    stdout_console().print(smoke_table(results))
    if any(r.outcome not in (Outcome.OK, Outcome.ABSENT) for r in results):
        raise typer.Exit(1)
