"""`phaseplan simulate`: replay a plan, on its own workload or on a trace."""

from pathlib import Path
from typing import Annotated

import typer

from clusters.fields import InputError
from clusters.mapping import nearest
from planner.cli.failures import ExitCode
from planner.cli.output import FormatOption, OutputOption, QuietOption, emit, say
from planner.cli.problem_file import check_positive, errors_name
from planner.cli.progress import progress
from planner.cli.shared_plan import check_not_given, simulate_shared
from planner.cli.timeline_file import MAX_SPANS, check_timeline, write_timeline

ADMISSIONS = ("none", "current", "predicted")
"""What `--admission` takes: let everyone in, or a rule of early rejection."""
ROUTINGS = (
    "shortest_queue",
    "flow_shares",
    "round_robin",
    "pending_tokens",
    "random",
    "power_of_two",
    "tetriinfer",
    "splitwise",
    "cache_aware",
)
"""What `--routing` takes."""
ENGINES = ("vllm", "sglang", "trtllm")
"""Names of the presets; written out so that help and completion import nothing."""


def check_engine(name: str | None) -> str | None:
    """Refuse an engine without a preset.

    Raises
    ------
    InputError
        Naming the nearest one.
    """
    if name is not None and name not in ENGINES:
        raise InputError("--engine", name, f"an engine ({nearest(name, ENGINES)})")
    return name


def check_routing(name: str | None) -> str | None:
    """Refuse a routing policy that there is not.

    Raises
    ------
    InputError
        Naming the nearest one.
    """
    return _one_of("--routing", name, ROUTINGS)


def check_admission(name: str | None) -> str | None:
    """Refuse a rule that there is not.

    Raises
    ------
    InputError
        Naming the nearest one.
    """
    return _one_of("--admission", name, ADMISSIONS)


def _one_of(option: str, name: str | None, known: tuple[str, ...]) -> str | None:
    if name is not None and name not in known:
        raise InputError(option, name, f"one that there is ({nearest(name, known)})")
    return name


def simulate(
    plan_file: Annotated[
        Path, typer.Argument(metavar="PLAN", help="Plan (JSON or YAML).")
    ],
    trace: Annotated[
        Path | None,
        typer.Argument(
            metavar="TRACE", help="Trace to replay; default: the plan's own."
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            callback=check_positive, help="Mean rate to scale to, requests/s."
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="No rate but so many requests at any time."),
    ] = None,
    ramp: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="With --concurrency: s over which the clients begin."
        ),
    ] = None,
    head: Annotated[
        int | None, typer.Option(min=1, help="Only the first requests.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Another seed than the plan's.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(ENGINES),
            callback=check_engine,
            help="Batching, memory and step times of this engine's defaults.",
        ),
    ] = None,
    admission: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(ADMISSIONS),
            callback=check_admission,
            help="Refuse requests on arrival, by the plan's SLO; default: the plan's.",
        ),
    ] = None,
    routing: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            callback=check_routing,
            help="Route by another policy; flow_shares: as the KV flow of the plan.",
        ),
    ] = None,
    timeline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            callback=check_timeline,
            help="Write a Chrome trace of steps and requests; it opens in Perfetto.",
        ),
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Replicas fail, come back, drain, change phase."
        ),
    ] = None,
    fmt: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Simulate a plan event by event and hold it to its SLO.

    Exit code 3: the SLO is missed.
    """
    from clusters.mapping import to_mapping
    from clusters.serde import read_mapping
    from planner.cli.simulation_tables import simulation_report
    from planner.files import plan_of_mapping
    from planner.multiplexing.file_kinds import is_shared_plan
    from planner.replay import ReplayOptions, replay_whole

    data = read_mapping(plan_file)
    if is_shared_plan(data):
        given = {
            "TRACE": trace,
            "--concurrency": concurrency,
            "--ramp": ramp,
            "--head": head,
            "--engine": engine,
            "--admission": admission,
            "--routing": routing,
            "--timeline": timeline,
            "--events": events,
        }
        check_not_given(given)
        simulate_shared(
            plan_file,
            data,
            rate_rps=rate,
            seed=seed,
            fmt=fmt,
            output=output,
            quiet=quiet,
        )
        return
    plan = plan_of_mapping(data, plan_file)
    options = ReplayOptions(
        trace=None if trace is None else str(trace),
        rate_rps=rate,
        concurrency=concurrency,
        ramp_s=ramp,
        head=head,
        seed=seed,
        engine=engine,
        admission=admission,
        routing=routing,
        max_spans=MAX_SPANS if timeline is not None else 0,
        events=None if events is None else str(events),
    )
    with errors_name(trace or plan_file), progress(quiet=quiet) as show:
        show("simulating")
        whole = replay_whole(plan, options)
    evaluation = whole.evaluation
    if timeline is not None:
        write_timeline(timeline, whole, quiet=quiet)
    emit(
        to_mapping(evaluation),
        fmt=fmt,
        table=lambda: simulation_report(plan, evaluation, engine=engine),
        output=output,
    )
    as_planned = ReplayOptions(max_spans=options.max_spans)
    if options == as_planned and evaluation != plan.evaluation:
        text = "is not what was simulated when the plan was made: it has been edited"
        version = f"made by another version ({plan.tool_version})"
        say(f"{plan_file}: this {text}, or {version}", label="warning", quiet=quiet)
    if not evaluation.attainment.is_met:
        raise typer.Exit(ExitCode.NO_PLAN)
