"""Serving runs for `phaseplan profile validate`, and their files."""

import gc
import gzip
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusters.fields import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.latency.profile import Profile
    from models.latency.step_table import StepTable
    from models.llm import LlmSpec
    from planner.simulator.system import BatchLimits
    from profiler.engine import Engine
    from profiler.served import ServedFile, ServedRun
    from profiler.serving import ServingPolicy
    from profiler.validation_plan import ValidationPlan

logger = logging.getLogger(__name__)


def limits_of(file: "ServedFile", policy: "ServingPolicy") -> "BatchLimits":
    """What the simulator is told of the engine."""
    from planner.simulator.system import Batching, BatchLimits
    from profiler.serving import budget_of

    return BatchLimits(
        policy=Batching(policy.value),
        max_batch_tokens=budget_of(file.limits, policy),
        max_num_seqs=file.limits.max_num_seqs,
        graph_batch_sizes=file.graph_sizes,
    )


def serve_run(
    engine: "Engine",
    file: "ServedFile",
    table: "StepTable",
    wanted: "ValidationPlan",
    policy: "ServingPolicy",
    share: float,
    show: "Callable[[str], None]",
    *,
    is_rough: bool = False,
) -> "ServedRun":
    """Serve a trace at a share of the capacity that is predicted for a policy.

    `is_rough` predicts the capacity without the simulator.
    """
    import numpy as np

    from planner.validation import draw_requests
    from profiler.served import ServedRun
    from profiler.serving import OpenLoop, serve

    rate = share * _capacity_rps(file, table, wanted, policy, is_rough=is_rough)
    num_requests = wanted.num_requests_at(rate)
    show(f"{policy}: serving {num_requests} requests at {rate:.3g} requests/s")
    requests = draw_requests(
        wanted.lengths,
        num_requests,
        rate_rps=rate,
        seed=wanted.seed,
        max_context=file.limits.max_context_tokens,
    )
    # A collection in the middle of a step would be a stall that no engine has.
    gc.collect()
    gc.disable()
    try:
        served = serve(
            engine,
            OpenLoop(
                arrival_ms=requests.arrival_ms,
                input_tokens=requests.input_tokens,
                output_tokens=requests.output_tokens,
            ),
            policy=policy,
            rng=np.random.default_rng(wanted.seed),
            max_s=wanted.max_s,
        )
    finally:
        gc.enable()
    return ServedRun.of(served, policy=policy, load_frac=share, rate_rps=rate)


def _capacity_rps(
    file: "ServedFile",
    table: "StepTable",
    wanted: "ValidationPlan",
    policy: "ServingPolicy",
    *,
    is_rough: bool,
) -> float:
    """By the simulator; roughly where it does not run: then the load is a rough one."""
    from planner.validation import (
        capacity_rps,
        draw_requests,
        rough_capacity_rps,
        slots_system,
    )

    limits, context = limits_of(file, policy), file.limits.max_context_tokens
    engine_table = file.calibration.applied_to(table)
    system = slots_system(engine_table, limits, max_context_tokens=context)
    if not is_rough:
        try:
            return capacity_rps(
                system, wanted.lengths, seed=wanted.seed, max_context=context
            )
        except ImportError as error:  # numba: not there, or too old for this NumPy
            logger.warning("the simulator does not run here: %s", error)
    drawn = draw_requests(
        wanted.lengths, 400, rate_rps=1.0, seed=wanted.seed, max_context=context
    )
    return rough_capacity_rps(engine_table, limits, drawn)


def engine_steps(
    file: "ServedFile", profile: "Profile", llm: "LlmSpec"
) -> list[dict[str, Any]]:
    """Every run's steps, predicted and measured, by kind."""
    from clusters.mapping import to_mapping
    from models.latency.measured import single_gpu_table
    from profiler.served import step_errors

    table = file.calibration.applied_to(single_gpu_table(profile, llm))
    return [
        {"policy": str(run.policy), "load_frac": run.load_frac, **to_mapping(error)}
        for run in file.runs
        for error in step_errors(run.steps, table, file.graph_sizes)
    ]


def write_served(path: Path, file: "ServedFile") -> None:
    """Write runs, compressed.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    from clusters.mapping import to_mapping

    text = json.dumps(to_mapping(file), allow_nan=False)
    try:
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    except OSError as error:
        form = f"a file that can be written ({error.strerror})"
        raise InputError("--served", str(path), form) from None


def read_served(path: Path) -> "ServedFile":
    """Read what `write_served` wrote.

    Raises
    ------
    InputError
        When it is no such file.
    """
    from clusters.mapping import from_mapping
    from profiler.served import ServedFile

    try:
        data = json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError) as error:
        raise InputError("--served", str(path), f"runs ({error})") from None
    return from_mapping(ServedFile, data, file=str(path))
