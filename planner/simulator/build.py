"""From a ServingSystem and Requests to the arrays of the kernel."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from clusters.fields import InputError, check_fields, spec
from planner.simulator import state
from planner.simulator.control_build import fill_control
from planner.simulator.micro_batches import GROUPS_PER_STAGE, max_micro_batch
from planner.simulator.outside_schedule import OutsideEvent
from planner.simulator.prefix_build import prefix_arrays
from planner.simulator.state import NONE, Array, World
from planner.simulator.system import (
    Batching,
    BatchLimits,
    Phase,
    ServingSystem,
)
from planner.simulator.table_build import batches_of, distinct_tables, knots_of
from planner.simulator.transfer_settings import LinkSharing
from planner.simulator.work import work_weight
from planner.workload.requests import Requests

NUM_SAMPLES = 256
"""Points of the KV occupancy curve of each replica."""

_NO_LIMIT = 1 << 40
"""More tokens or requests than any simulation has."""

_WATERMARK_FRAC = 0.01
"""Share of the KV blocks that admission leaves free (vLLM's default)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopLimits:
    """Stop a simulation as soon as its limits cannot be met any more.

    A limit of None never counts; the numbers of misses allowed are inclusive.
    """

    ttft_ms: float | None = spec("TTFT limit.", unit="ms", gt=0, default=None)
    tpot_ms: float | None = spec("TPOT limit.", unit="ms", gt=0, default=None)
    e2e_ms: float | None = spec("End-to-end limit.", unit="ms", gt=0, default=None)
    max_misses: int = spec("Requests that may miss.", unit="requests", ge=0)
    is_joint: bool = spec("Whether a request misses when it misses any limit.")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationOptions:
    """How to run a simulation; the defaults run everything to the end."""

    stop_limits: StopLimits | None = spec("Early stop.", default=None)
    concurrency: int | None = spec(
        "Closed loop with this many clients; arrival times are then ignored.",
        unit="clients",
        gt=0,
        default=None,
    )
    ramp_ms: float = spec(
        "Closed loop: the clients begin one after the other over this time.",
        unit="ms",
        ge=0,
        default=0.0,
    )
    hold_ms: float = spec(
        "Closed loop: a next request is held back this long, with those that follow it "
        "meanwhile (an engine that waits for more prompts to go with it).",
        unit="ms",
        ge=0,
        default=0.0,
    )
    poll_ms: float = spec(
        "Closed loop: next requests are looked at once in so long, all that came since "
        "together (an engine that polls); 0: at once.",
        unit="ms",
        ge=0,
        default=0.0,
    )
    is_fast_forward: bool = spec("Jump over unchanged decode steps.", default=True)
    sample_ms: float = spec(
        "Time between samples of the KV occupancy; 0: spread over the arrivals.",
        unit="ms",
        ge=0,
        default=0.0,
    )
    is_itl_counted: bool = spec("Count the gaps between tokens.", default=False)
    max_spans: int = spec(
        "Steps and runs of steps kept for the timeline, the first ones.",
        unit="1",
        ge=0,
        default=0,
    )

    events: tuple[OutsideEvent, ...] = spec(
        "What happens to replicas from outside, in any order.", default=()
    )

    def __post_init__(self) -> None:
        check_fields(self)


def build_world(
    system: ServingSystem, requests: Requests, options: SimulationOptions
) -> World:
    """Allocate and fill the arrays of one simulation.

    Raises
    ------
    InputError
        For a closed loop of requests that are turns of sessions.
    """
    if options.concurrency is not None and requests.turns is not None:
        raise InputError(
            "concurrency", options.concurrency, "None where requests are sessions"
        )
    replicas = system.replicas
    num_stages = sum(len(r.stages) for r in replicas)
    num_groups = GROUPS_PER_STAGE * num_stages
    num_members = sum(
        GROUPS_PER_STAGE * len(r.stages) * max_micro_batch(r) for r in replicas
    )
    max_block = max(r.kv_block_tokens for r in replicas)
    tables, table_of = distinct_tables(replicas)
    most = max(r.limits.max_num_seqs for r in replicas)
    stage = np.zeros(num_stages, dtype=state.STAGE)
    group = np.zeros(num_groups, dtype=state.GROUP)
    replica = _fill_replicas(system, stage, group, table_of)
    request = _fill_requests(requests, options)
    clock = _fill_clock(system, requests, options)
    fill_control(clock, request, replica, system)
    num_slots = num_stages + len(requests) + 1
    slot = np.zeros(num_slots, dtype=state.SLOT)
    slot["position"] = NONE
    is_fair = system.kv_transfer.sharing is LinkSharing.FAIR
    by_phase = {p: system.indices(p) for p in Phase}
    return World(
        clock=clock,
        request=request,
        replica=replica,
        stage=stage,
        group=group,
        member=np.zeros(num_members, dtype=state.MEMBER),
        residues=np.zeros((num_groups, max_block), dtype=np.int64),
        heap=np.zeros(num_slots, dtype=np.int64),
        slot=slot,
        dirty=np.zeros(len(replicas), dtype=np.int64),
        prefill_replicas=np.array(
            by_phase[Phase.PREFILL] + by_phase[Phase.AGGREGATED], dtype=np.int64
        ),
        decode_replicas=np.array(by_phase[Phase.DECODE], dtype=np.int64),
        knot=knots_of(tables),
        batch=batches_of(tables, most),
        **_route_arrays(system),
        kv_samples=np.zeros((len(replicas), NUM_SAMPLES), dtype=np.float64),
        gap_counts=np.zeros(state.NUM_GAP_BINS, dtype=np.int64),
        span=np.zeros(options.max_spans, dtype=state.SPAN),
        **prefix_arrays(system, requests, replica),
        flow=np.zeros(len(requests) if is_fair else 0, dtype=np.int64),
        outside=np.zeros(0, dtype=state.OUTSIDE_EVENT),
    )


def _fill_replicas(
    system: ServingSystem,
    stage: Array,
    group: Array,
    table_of: dict[tuple[int, int], int],
) -> Array:
    weights: dict[tuple[object, ...], float] = {}
    replica = np.zeros(len(system.replicas), dtype=state.REPLICA)
    next_stage, next_group, next_member = 0, 0, 0
    for index, given in enumerate(system.replicas):
        rep = replica[index]
        num_stages = len(given.stages)
        rep["prefills"] = given.phase is not Phase.DECODE
        rep["decodes"] = given.phase is not Phase.PREFILL
        rep["slice"] = given.slice
        rep["first_stage"], rep["num_stages"] = next_stage, num_stages
        _fill_limits(rep, given.limits)
        rep["max_micro_batch"] = max_micro_batch(given)
        rep["block_tokens"] = given.kv_block_tokens
        blocks = given.kv_capacity_tokens // given.kv_block_tokens
        rep["capacity_blocks"] = rep["free_blocks"] = blocks
        rep["least_free_blocks"], rep["cache"] = blocks, NONE
        rep["watermark_blocks"] = int(blocks * _WATERMARK_FRAC)
        size = given.kv_capacity_tokens
        alike = (given.phase, id(given.stages), id(given.limits), size)
        if alike not in weights:
            weights[alike] = work_weight(given)
        rep["work_weight"] = weights[alike]
        rep["is_open"] = 1
        for name in ("prompt", "partial", "pull", "join"):
            rep[f"{name}_head"] = rep[f"{name}_tail"] = NONE
        for position, table in enumerate(given.stages):
            st = stage[next_stage + position]
            st["replica"] = index
            st["table"] = table_of[id(table), id(given.limits)]
            st["per_sq_token_ms"] = table.prefill_per_sq_token_ms
            st["is_last"] = position == num_stages - 1
            st["current"] = st["prefill_head"] = st["decode_head"] = NONE
        rep["idle_group"], rep["free_group"] = NONE, next_group
        rep["first_group"] = next_group
        last_group = next_group + GROUPS_PER_STAGE * num_stages - 1
        for position in range(next_group, last_group + 1):
            grp = group[position]
            grp["replica"], grp["offset"] = index, next_member
            grp["next"] = position + 1 if position < last_group else NONE
            next_member += max_micro_batch(given)
        next_stage += num_stages
        next_group = last_group + 1
    return replica


def _fill_limits(rep: Any, limits: BatchLimits) -> None:
    policy = limits.policy
    rep["max_batch_tokens"] = limits.max_batch_tokens
    rep["max_num_seqs"] = limits.max_num_seqs
    rep["has_chunks_in_turn"] = limits.has_chunks_in_turn
    rep["max_step_prompts"] = limits.max_step_prompts or limits.max_num_seqs
    rep["max_step_context"] = limits.max_step_context_tokens or 0
    rep["is_chunked"] = policy.mixes_decodes or policy.cuts_prompts
    rep["mixes_decodes"] = policy.mixes_decodes
    rep["cuts_prompts"] = policy.cuts_prompts
    rep["tile_rest"] = limits.max_batch_tokens % limits.chunk_tile_tokens
    rep["max_chunk"] = limits.max_chunk_tokens or _NO_LIMIT
    rep["max_partial"] = limits.max_partial_prompts or _NO_LIMIT
    rep["reserves_output"] = limits.reserves_output
    rep["reserved_output"] = limits.reserved_output_tokens or 0
    rep["is_request_level"] = policy is Batching.REQUEST_LEVEL
    rep["is_batch_padded"] = limits.is_batch_padded
    rep["ended_head"] = NONE


def _fill_requests(requests: Requests, options: SimulationOptions) -> Array:
    request = np.zeros(len(requests), dtype=state.REQUEST)
    request["arrival_ms"] = requests.arrival_ms
    clients = options.concurrency
    num_open = _num_open(requests, options)
    if clients is not None:
        starts_ms = np.arange(clients) * (options.ramp_ms / clients)
        request["arrival_ms"][:clients] = starts_ms[: len(requests)]
    if clients is not None or requests.turns is not None:
        first = num_open if clients is None else clients
        request["arrival_ms"][first:] = np.inf
    request["status"][num_open:] = state.AWAITED
    request["input_tokens"] = requests.input_tokens
    request["output_tokens"] = requests.output_tokens
    for name in (
        "prefill_start_ms",
        "first_token_ms",
        "transfer_start_ms",
        "decode_ready_ms",
        "finish_ms",
        "last_token_ms",
        "begun_ms",
        "made_ms",
    ):
        request[name] = np.nan
    for name in (
        "prefill_replica",
        "decode_replica",
        "admission",
        "next",
        "batch_next",
    ):
        request[name] = NONE
    return request


def _num_open(requests: Requests, options: SimulationOptions) -> int:
    """Requests, the first ones, that arrive in order; others follow from events."""
    if options.concurrency is not None and options.ramp_ms > 0:
        return min(options.concurrency, len(requests))
    return len(requests) if requests.turns is None else requests.turns.num_first


def _fill_clock(
    system: ServingSystem, requests: Requests, options: SimulationOptions
) -> Array:
    array = np.zeros(1, dtype=state.CLOCK)
    clock = array[0]
    clock["num_open"] = _num_open(requests, options)
    clock["is_ramped"] = options.concurrency is not None and options.ramp_ms > 0
    clock["counts_gaps"] = options.is_itl_counted
    clock["fast_forward"] = options.is_fast_forward
    clock["concurrency"] = options.concurrency or 0
    clock["hold_ms"] = options.hold_ms
    clock["poll_ms"] = options.poll_ms
    clock["num_decodes"] = len(system.indices(Phase.DECODE))
    clock["num_prefills"] = len(system.replicas) - clock["num_decodes"]
    for name in ("wait_head", "wait_tail", "unsent_head", "unsent_tail"):
        clock[name] = NONE
    clock["kv_bytes_per_token"] = system.kv_bytes_per_token
    clock["num_layers"] = system.num_layers
    least = system.kv_transfer.least_layer_wise_tokens
    clock["least_layer_wise"] = _NO_LIMIT if least is None else least
    clock["is_fair"] = system.kv_transfer.sharing is LinkSharing.FAIR
    clock["layer_wise_ms"] = system.kv_transfer.layer_wise_ms
    clock["transfer_block_ms"] = system.kv_transfer.block_ms
    spread = max(requests.duration_ms, 1.0) / (NUM_SAMPLES - 1)
    clock["sample_ms"] = options.sample_ms or spread
    limits = options.stop_limits
    for metric in ("ttft", "tpot", "e2e"):
        limit = getattr(limits, f"{metric}_ms") if limits else None
        clock[f"{metric}_limit_ms"] = np.inf if limit is None else limit
        clock[f"max_{metric}_misses"] = len(requests)
        if limits is not None:
            clock[f"max_{metric}_misses"] = limits.max_misses
    clock["max_joint_misses"] = len(requests)
    if limits is not None and limits.is_joint:
        clock["max_joint_misses"] = limits.max_misses
    return array


def _route_arrays(system: ServingSystem) -> dict[str, Array]:
    num = len(system.replicas)
    given = (*system.routes, *system.switch_routes)
    arriving = system.replica_shares()
    by_pair = {route.source * num + route.target: route for route in given}
    names = sorted({share.edge for route in given for share in route.edges})
    number = {name: i for i, name in enumerate(names)}
    routes = np.zeros(num * num + 1, dtype=state.ROUTE)
    shares: list[tuple[int, float]] = []
    for pair in range(num * num):
        route = by_pair.get(pair)
        source, target = divmod(pair, num)
        if arriving is not None and source == target:
            is_prefill = system.replicas[source].phase is Phase.PREFILL
            routes[pair]["share"] = arriving[source] * is_prefill
        if route is not None:
            routes[pair]["share"] = route.share_frac * system.has_share(route)
            routes[pair]["latency_ms"] = route.latency_ms
            routes[pair]["ms_per_byte"] = route.ms_per_byte
            shares += [(number[share.edge], share.ms_per_byte) for share in route.edges]
        routes[pair + 1]["first_edge"] = len(shares)
    return {
        "route": routes,
        "edge_share": np.array(shares, dtype=state.EDGE_SHARE),
        "edge": np.zeros(len(names), dtype=state.EDGE),
    }
