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

    from models.latency.step_table import StepTable
    from planner.validation import ValidationLevel
    from profiler.campaign_plan import ValidationPlan
    from profiler.engine import Engine
    from profiler.environment import Device

_KV_BLOCK_TOKENS = 16


@app.command()
def validate(
    profile: Annotated[Path, typer.Argument(help="Profile (JSON).")],
    model: ModelArgument,
    device: DeviceOption = "cuda",
    dtype: DtypeOption = "bf16",
    lengths: Annotated[
        str, typer.Option(help="Length preset, or fixed INPUTxOUTPUT tokens.")
    ] = "chat",
    load: Annotated[str, typer.Option(help="Shares of capacity.")] = "0.5,0.85,0.95",
    num_requests: Annotated[
        int, typer.Option("--requests", min=2, help="Requests a load.")
    ] = 200,
    max_context_tokens: Annotated[int, typer.Option(min=8)] = 4096,
    max_num_seqs: Annotated[int, typer.Option(min=1)] = 128,
    max_batch_tokens: Annotated[int, typer.Option(min=1)] = 8192,
    max_s: Annotated[
        float, typer.Option("--max-seconds", min=1.0, help="Longest run of a load.")
    ] = 120.0,
    ttft_ms: Annotated[float, typer.Option(min=0.001)] = 2000.0,
    tpot_ms: Annotated[float, typer.Option(min=0.001)] = 30.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    fmt: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Serve a trace in real time on the device, and hold the simulator to it."""
    from clusters.mapping import to_mapping
    from models.latency.profile import Profile
    from models.llm import LlmSpec
    from planner.cli.profile_tables import validation_report
    from profiler.campaign_plan import ValidationPlan
    from profiler.engine import EngineLimits

    wanted = ValidationPlan(
        lengths=lengths,
        loads=tuple(float(part) for part in load.split(",")),
        num_requests=num_requests,
        seed=seed,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        max_s=max_s,
        limits=EngineLimits(
            max_batch_tokens=max_batch_tokens,
            max_num_seqs=max_num_seqs,
            max_context_tokens=max_context_tokens,
        ),
    )
    chosen = open_device(device)
    with progress(quiet=quiet) as show:
        show("building the engine")
        engine = build_engine(LlmSpec.load(model), chosen, dtype, wanted.limits)
        table = calibrated_table(Profile.load(profile), engine, chosen, dtype)
        levels = validate_levels(engine, table, wanted, show)
    emit(
        {"levels": to_mapping(levels)},
        fmt=fmt,
        table=lambda: validation_report(levels),
        output=output,
    )


def build_engine(llm: object, device: "Device", dtype: str, limits: object) -> "Engine":
    """The whole model on the device, its decode graphs captured."""
    from profiler.engine import Engine
    from profiler.layers.settings import LayerSettings

    # What was measured before is gone, but torch may still hold its memory.
    gc.collect()
    device.free_bytes()
    settings = LayerSettings.for_device(device.torch_device, dtype)
    engine = Engine(llm, settings, limits)  # type: ignore[arg-type]
    engine.prepare()
    return engine


def calibrated_table(
    profile: object, engine: "Engine", device: "Device", dtype: str
) -> "StepTable":
    """The model's step table from its layers, with what the serving loop adds.

    Raises
    ------
    InputError
        When the profile is of another device, or does not hold the model.
    """
    import numpy as np

    from models.latency.measured import single_gpu_table, with_overhead
    from models.latency.profile import Profile
    from profiler.calibration import calibrate
    from profiler.environment import environment_of

    assert isinstance(profile, Profile)
    here = environment_of(device, gpu=profile.gpu)
    if here.device_name != profile.environment.device_name:
        raise InputError(
            "profile", profile.environment.device_name, f"one of {here.device_name}"
        )
    bare = single_gpu_table(profile, engine.llm)
    records = calibrate(engine, bare, here, dtype=dtype)

    def median_ms(phase: str) -> float:
        found = [r.step.ms for r in records if r.step and r.point.phase == phase]
        return float(np.median(found))

    return with_overhead(
        bare, prefill_ms=median_ms("prefill"), decode_ms=median_ms("decode")
    )


def validate_levels(
    engine: "Engine",
    table: "StepTable",
    wanted: "ValidationPlan",
    show: "Callable[[str], None]",
) -> tuple["ValidationLevel", ...]:
    """Serve and simulate the same requests at every load."""
    import numpy as np

    from planner.simulator.simulate import simulate
    from planner.simulator.system import BatchLimits
    from planner.slo import Slo
    from planner.validation import capacity_rps, compare, draw_requests, engine_system
    from profiler.serving import OpenLoop, serve

    limits = engine.limits
    slots = limits.max_num_seqs * limits.max_context_tokens
    # A slot is never short of room: twice the tokens, so that no block is missed.
    system = engine_system(
        table,
        BatchLimits(
            max_batch_tokens=limits.max_batch_tokens, max_num_seqs=limits.max_num_seqs
        ),
        kv_capacity_tokens=2 * slots + _KV_BLOCK_TOKENS,
    )
    show("simulating the capacity")
    most = capacity_rps(
        system,
        wanted.lengths,
        seed=wanted.seed,
        max_context=limits.max_context_tokens,
    )
    levels = []
    for share in wanted.loads:
        rate = share * most
        num_requests = wanted.num_requests_at(rate)
        show(f"serving {num_requests} requests at {rate:.3g} requests/s")
        requests = draw_requests(
            wanted.lengths,
            num_requests,
            rate_rps=rate,
            seed=wanted.seed,
            max_context=limits.max_context_tokens,
        )
        served = serve(
            engine,
            OpenLoop(
                arrival_ms=requests.arrival_ms,
                input_tokens=requests.input_tokens,
                output_tokens=requests.output_tokens,
            ),
            rng=np.random.default_rng(wanted.seed),
            max_s=wanted.max_s,
        )
        levels.append(
            compare(
                simulate(system, requests),
                served.ttft_ms,
                served.tpot_ms,
                slo=Slo(ttft_ms=wanted.ttft_ms, tpot_ms=wanted.tpot_ms),
                load_frac=share,
                rate_rps=rate,
            )
        )
    return tuple(levels)
