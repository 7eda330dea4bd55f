"""`phaseplan profile validate`: predicted beside measured on the device itself."""

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clusters.fields import InputError
from planner.cli.output import FormatOption, OutputOption, QuietOption, emit
from planner.cli.profile import (
    DeviceOption,
    DtypeOption,
    ModelArgument,
    app,
    open_device,
)
from planner.cli.progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.latency.profile import Profile
    from models.llm import LlmSpec
    from planner.validation import ValidationLevel
    from profiler.engine import Engine
    from profiler.environment import Device
    from profiler.served import ServedFile
    from profiler.validation_plan import ValidationPlan


@app.command()
def validate(
    profile: Annotated[Path, typer.Argument(help="Profile (JSON).")],
    model: ModelArgument,
    device: DeviceOption = "cuda",
    dtype: DtypeOption = "bf16",
    lengths: Annotated[
        str, typer.Option(help="Length preset, INPUTxOUTPUT tokens, or a trace.")
    ] = "chat",
    policy: Annotated[
        str, typer.Option(help="prefill_first, chunked, or both with a comma.")
    ] = "prefill_first",
    load: Annotated[str, typer.Option(help="Shares of capacity.")] = "0.5,0.85,0.95",
    num_requests: Annotated[
        int, typer.Option("--requests", min=2, help="Requests a load.")
    ] = 200,
    max_context_tokens: Annotated[
        int, typer.Option(min=8, help="Prompt and answer of a request, at most.")
    ] = 4096,
    max_num_seqs: Annotated[
        int, typer.Option(min=1, help="Requests at a time, each with a whole slot.")
    ] = 128,
    max_batch_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of a prefill-first step.")
    ] = 8192,
    chunk_budget: Annotated[
        int, typer.Option(min=1, help="Tokens of a chunked step, decodes included.")
    ] = 2048,
    max_s: Annotated[
        float, typer.Option("--max-seconds", min=1.0, help="Longest run of a load.")
    ] = 120.0,
    ttft_ms: Annotated[
        float, typer.Option(min=0.001, help="Of a good request, at most.")
    ] = 2000.0,
    tpot_ms: Annotated[
        float, typer.Option(min=0.001, help="Of a good request, at most.")
    ] = 30.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of arrivals and lengths.")] = 0,
    served: Annotated[
        Path | None,
        typer.Option(help="Runs of an engine: written, or read if they are there."),
    ] = None,
    fmt: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Serve a trace in real time on the device, and hold the simulator to it.

    With runs that were served before, nothing is served and no device is needed.
    """
    from clusters.mapping import to_mapping
    from models.latency.profile import Profile
    from models.llm import LlmSpec
    from planner.cli.profile_served import read_served, write_served
    from planner.cli.profile_tables import validation_report
    from profiler.engine import EngineLimits
    from profiler.validation_plan import ValidationPlan, policies_of

    wanted = ValidationPlan(
        lengths=lengths,
        loads=tuple(float(part) for part in load.split(",")),
        policies=policies_of(policy),
        num_requests=num_requests,
        seed=seed,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        max_s=max_s,
        limits=EngineLimits(
            max_batch_tokens=max_batch_tokens,
            chunk_budget_tokens=chunk_budget,
            max_num_seqs=max_num_seqs,
            max_context_tokens=max_context_tokens,
        ),
    )
    measured, llm = Profile.load(profile), LlmSpec.load(model)
    with progress(quiet=quiet) as show:
        if served is not None and served.exists():
            runs = read_served(served)
        else:
            chosen = open_device(device)
            show("building the engine")
            engine, why_no_graphs = build_engine(llm, chosen, dtype, wanted)
            runs = serve_levels(engine, measured, chosen, wanted, show, why_no_graphs)
            if served is not None:
                write_served(served, runs)
        levels = predict_levels(runs, measured, llm, wanted)
    emit(
        {"levels": to_mapping(levels)},
        fmt=fmt,
        table=lambda: validation_report(levels),
        output=output,
    )


def build_engine(
    llm: "LlmSpec", device: "Device", dtype: str, wanted: "ValidationPlan"
) -> tuple["Engine", str | None]:
    """The whole model on the device; and why its decode steps are not captured."""
    from profiler.engine import Engine
    from profiler.layers.settings import LayerSettings

    # What was measured before is gone, but torch may still hold its memory.
    gc.collect()
    device.free_bytes()
    settings = LayerSettings.for_device(device.torch_device, dtype)
    engine = Engine(llm, settings, wanted.limits)
    return engine, engine.prepare()


def serve_levels(
    engine: "Engine",
    profile: "Profile",
    device: "Device",
    wanted: "ValidationPlan",
    show: "Callable[[str], None]",
    why_no_graphs: str | None = None,
    *,
    is_rough: bool = False,
) -> "ServedFile":
    """Calibrate the engine, and serve a trace at every load with every policy.

    `is_rough` sets the loads by a capacity that is predicted without the simulator.

    Raises
    ------
    InputError
        When the profile is of another device, or does not hold the model.
    """
    from dataclasses import replace

    from models.latency.measured import single_gpu_table
    from profiler.calibration import calibrate
    from profiler.environment import environment_of
    from profiler.served import ServedFile

    here = environment_of(device, gpu=profile.gpu).device_name
    if here != profile.environment.device_name:
        form = f"a profile of {here}"
        raise InputError("profile", profile.environment.device_name, form)
    table = single_gpu_table(profile, engine.llm)
    show("calibrating the engine")
    calibration = calibrate(engine, table)
    file = ServedFile.of_engine(engine, here, calibration, no_graphs=why_no_graphs)
    from planner.cli.profile_served import serve_run

    for policy in wanted.policies:
        for share in wanted.loads:
            run = serve_run(
                engine, file, table, wanted, policy, share, show, is_rough=is_rough
            )
            file = replace(file, runs=(*file.runs, run))
    return file


def predict_levels(
    file: "ServedFile", profile: "Profile", llm: "LlmSpec", wanted: "ValidationPlan"
) -> tuple["ValidationLevel", ...]:
    """Simulate every run that was served, and compare."""
    from models.latency.measured import single_gpu_table
    from planner.cli.profile_served import limits_of
    from planner.simulator.simulate import simulate
    from planner.slo import Slo
    from planner.validation import compare, slots_system
    from planner.workload.requests import Requests

    if file.llm != llm.name:
        raise InputError("--served", file.llm, f"runs of {llm.name}")
    table = file.calibration.applied_to(single_gpu_table(profile, llm))
    levels = []
    for run in file.runs:
        served = run.served()
        system = slots_system(
            table,
            limits_of(file, run.policy),
            max_context_tokens=file.limits.max_context_tokens,
        )
        requests = Requests(
            arrival_ms=served.requests.arrival_ms,
            input_tokens=served.requests.input_tokens,
            output_tokens=served.requests.output_tokens,
        )
        levels.append(
            compare(
                simulate(system, requests),
                served,
                slo=Slo(ttft_ms=wanted.ttft_ms, tpot_ms=wanted.tpot_ms),
                policy=run.policy,
                load_frac=run.load_frac,
                rate_rps=run.rate_rps,
            )
        )
    return tuple(levels)
