"""`simulate`: serve a sequence of requests on a system, and account for every one."""

import numpy as np

from planner.simulator.build import SimulationOptions, StopLimits, build_world
from planner.simulator.launch import run_world
from planner.simulator.outcome import ReplicaStats, SimulationResult, StageStats
from planner.simulator.outside_build import with_outside
from planner.simulator.state import DONE, NONE, REJECTED, World
from planner.simulator.system import ServingSystem
from planner.simulator.timeline import Timeline
from planner.simulator.token_gaps import GapHistogram
from planner.workload.requests import Requests


def simulate(
    system: ServingSystem,
    requests: Requests,
    *,
    options: SimulationOptions | None = None,
) -> SimulationResult:
    """Simulate `requests` on `system`, event by event.

    Parameters
    ----------
    system
        Replicas, their step latencies and limits, and the KV routes between them.
    requests
        What arrives, in order.
    options
        Early stop, closed loop, sampling; by default everything runs to the end.

    Returns
    -------
    SimulationResult
        Times of every request, counters of every replica. When `options.stop_limits`
        were missed early, `is_complete` is False and later requests have no times.
    """
    given = options or SimulationOptions()

    def build() -> World:
        world = build_world(system, requests, given)
        return with_outside(world, system, given.events) if given.events else world

    return _collect(*run_world(build))


def is_within_limits(
    system: ServingSystem, requests: Requests, limits: StopLimits
) -> bool:
    """Whether `requests` are served within `limits`; ends at the first miss too many.

    The verdict of a whole simulation for a fraction of its time.
    """
    options = SimulationOptions(stop_limits=limits)
    return run_world(lambda: build_world(system, requests, options))[1]


def _collect(world: World, is_complete: bool) -> SimulationResult:
    request = world.request
    clock = world.clock[0]
    stats = tuple(_replica_stats(world, index) for index in range(len(world.replica)))
    return SimulationResult(
        arrival_ms=request["arrival_ms"].copy(),
        input_tokens=request["input_tokens"] - request["streamed_tokens"],
        output_tokens=request["output_tokens"] + request["streamed_tokens"],
        prefill_start_ms=request["prefill_start_ms"].copy(),
        first_token_ms=request["first_token_ms"].copy(),
        transfer_start_ms=request["transfer_start_ms"].copy(),
        decode_ready_ms=request["decode_ready_ms"].copy(),
        finish_ms=request["finish_ms"].copy(),
        prefill_replica=request["prefill_replica"].astype(np.int64),
        decode_replica=np.maximum(request["decode_replica"], NONE).astype(np.int64),
        is_done=request["status"] == DONE,
        is_rejected=request["status"] == REJECTED,
        num_preemptions=int(clock["num_preemptions"]),
        num_recomputed=int(clock["num_recomputed"]),
        num_recomputed_tokens=int(clock["num_recomputed_tokens"]),
        num_rerouted=int(clock["num_rerouted"]),
        num_events=int(clock["num_events"]),
        end_ms=float(clock["now_ms"]),
        sample_ms=float(clock["sample_ms"]),
        replicas=stats,
        is_complete=is_complete,
        token_gaps=(
            GapHistogram(counts=world.gap_counts) if clock["counts_gaps"] else None
        ),
        hit_blocks=world.reuse["hit_blocks"].copy() if len(world.reuse) else None,
        hit_tokens=world.reuse["hit_tokens"].copy() if len(world.reuse) else None,
        timeline=_timeline(world) if len(world.span) else None,
    )


def _timeline(world: World) -> Timeline:
    clock = world.clock[0]
    span = world.span[: int(clock["num_spans"])]
    stage = span["stage"]
    replica = world.stage["replica"][stage]
    return Timeline(
        replica=replica,
        stage=stage - world.replica["first_stage"][replica],
        start_ms=span["start_ms"].copy(),
        end_ms=span["end_ms"].copy(),
        doing=span["doing"].copy(),
        num_steps=span["num_steps"].copy(),
        num_prompt_tokens=span["num_prompt_tokens"].copy(),
        num_decodes=span["num_decodes"].copy(),
        num_left_out=int(clock["num_spans_left_out"]),
    )


def _replica_stats(world: World, index: int) -> ReplicaStats:
    rep = world.replica[index]
    first = int(rep["first_stage"])
    stages = world.stage[first : first + int(rep["num_stages"])]
    span_ms = max(float(world.clock[0]["now_ms"]), 1e-12)
    capacity = max(int(rep["capacity_blocks"]), 1)
    num_sampled = int(rep["next_sample"])
    active_ms = float(rep["active_ms"])
    if rep["num_busy"] > 0:  # stopped early
        active_ms += float(world.clock[0]["now_ms"] - rep["active_since_ms"])
    busy_ms = sum(
        float(stages[f"{kind}_busy_ms"].mean())
        for kind in ("prefill", "decode", "mixed")
    )
    return ReplicaStats(
        num_requests=int(rep["num_requests"]),
        prefill_busy_frac=float(stages["prefill_busy_ms"].mean()) / span_ms,
        decode_busy_frac=float(stages["decode_busy_ms"].mean()) / span_ms,
        mixed_busy_frac=float(stages["mixed_busy_ms"].mean()) / span_ms,
        num_prefill_steps=int(stages[0]["num_prefill_steps"]),
        num_decode_steps=int(stages[0]["num_decode_steps"]),
        num_mixed_steps=int(stages[0]["num_mixed_steps"]),
        num_prefill_tokens=int(stages[0]["num_prefill_tokens"]),
        num_decode_tokens=int(stages[0]["num_decode_tokens"]),
        num_mixed_tokens=int(stages[0]["num_mixed_tokens"]),
        kv_mean_frac=float(rep["kv_block_ms"]) / span_ms / capacity,
        kv_peak_frac=float(rep["kv_peak_blocks"]) / capacity,
        kv_curve_frac=tuple(
            float(v) for v in world.kv_samples[index, :num_sampled] / capacity
        ),
        active_frac=active_ms / span_ms,
        bubble_frac=max(0.0, active_ms - busy_ms) / span_ms,
        stages=tuple(
            StageStats(
                prefill_busy_frac=float(stage["prefill_busy_ms"]) / span_ms,
                decode_busy_frac=float(stage["decode_busy_ms"]) / span_ms,
                mixed_busy_frac=float(stage["mixed_busy_ms"]) / span_ms,
            )
            for stage in stages
        ),
    )
