"""From a ServingSystem and Requests to the arrays of the kernel."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from clusters.fields import check_fields, spec
from models.latency.step_table import StepTable
from planner.simulator import state
from planner.simulator.state import NONE, Array, World
from planner.simulator.system import Phase, Routing, ServingReplica, ServingSystem
from planner.workload.requests import Requests

NUM_SAMPLES = 256
"""Points of the KV occupancy curve of each replica."""

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
    is_fast_forward: bool = spec("Jump over unchanged decode steps.", default=True)
    sample_ms: float = spec(
        "Time between samples of the KV occupancy; 0: spread over the arrivals.",
        unit="ms",
        ge=0,
        default=0.0,
    )

    def __post_init__(self) -> None:
        check_fields(self)


def build_world(
    system: ServingSystem, requests: Requests, options: SimulationOptions
) -> World:
    """Allocate and fill the arrays of one simulation."""
    replicas = system.replicas
    num_stages = sum(len(r.stages) for r in replicas)
    num_groups = sum(len(r.stages) + 1 for r in replicas)
    num_members = sum((len(r.stages) + 1) * r.limits.max_num_seqs for r in replicas)
    max_block = max(r.kv_block_tokens for r in replicas)
    tables, table_of = _distinct_tables(replicas)
    knots, values, squares = _prefill_arrays(tables)
    fixed, slope = _decode_arrays(tables, max(r.limits.max_num_seqs for r in replicas))
    stage = np.zeros(num_stages, dtype=state.STAGE)
    group = np.zeros(num_groups, dtype=state.GROUP)
    replica = _fill_replicas(system, stage, group, table_of)
    request = _fill_requests(requests, options)
    slot = np.zeros(num_stages + len(requests), dtype=state.SLOT)
    slot["position"] = NONE
    by_phase = {p: system.indices(p) for p in Phase}
    return World(
        clock=_fill_clock(system, requests, options),
        request=request,
        replica=replica,
        stage=stage,
        group=group,
        member_finish=np.zeros(num_members, dtype=np.int64),
        member_request=np.zeros(num_members, dtype=np.int64),
        residues=np.zeros((num_groups, max_block), dtype=np.int64),
        heap=np.zeros(num_stages + len(requests), dtype=np.int64),
        slot=slot,
        dirty=np.zeros(len(replicas), dtype=np.int64),
        prefill_replicas=np.array(
            by_phase[Phase.PREFILL] + by_phase[Phase.AGGREGATED], dtype=np.int64
        ),
        decode_replicas=np.array(by_phase[Phase.DECODE], dtype=np.int64),
        prefill_knots=knots,
        prefill_values=values,
        prefill_squares=squares,
        decode_fixed=fixed,
        decode_slope=slope,
        **_route_arrays(system),
        kv_samples=np.zeros((len(replicas), NUM_SAMPLES), dtype=np.float64),
    )


def _distinct_tables(
    replicas: tuple[ServingReplica, ...],
) -> tuple[tuple[StepTable, ...], dict[StepTable, int]]:
    table_of: dict[StepTable, int] = {}
    for replica in replicas:
        for table in replica.stages:
            table_of.setdefault(table, len(table_of))
    return tuple(table_of), table_of


@lru_cache(maxsize=256)
def _prefill_arrays(tables: tuple[StepTable, ...]) -> tuple[Array, Array, Array]:
    """Knots and values padded to one width by points on the last slope."""
    width = max(2, *(len(t.prefill_tokens) for t in tables))
    knots = np.zeros((len(tables), width))
    values = np.zeros((len(tables), width))
    for row, table in enumerate(tables):
        xs, ys = list(table.prefill_tokens), list(table.prefill_ms)
        slope = (ys[-1] - ys[-2]) / (xs[-1] - xs[-2]) if len(xs) > 1 else 0.0
        while len(xs) < width:
            xs.append(xs[-1] + 1.0)
            ys.append(ys[-1] + slope)
        knots[row], values[row] = xs, ys
    squares = np.array([t.prefill_per_sq_token_ms for t in tables])
    return knots, values, squares


@lru_cache(maxsize=256)
def _decode_arrays(
    tables: tuple[StepTable, ...], max_num_seqs: int
) -> tuple[Array, Array]:
    rows = [table.decode_arrays(max_num_seqs) for table in tables]
    fixed = np.array([row[0] for row in rows])
    slope = np.array([row[1] for row in rows])
    return fixed, slope


def _fill_replicas(
    system: ServingSystem, stage: Array, group: Array, table_of: dict[StepTable, int]
) -> Array:
    replica = np.zeros(len(system.replicas), dtype=state.REPLICA)
    next_stage, next_group, next_member = 0, 0, 0
    for index, given in enumerate(system.replicas):
        rep = replica[index]
        num_stages = len(given.stages)
        rep["prefills"] = given.phase is not Phase.DECODE
        rep["decodes"] = given.phase is not Phase.PREFILL
        rep["slice"] = given.slice
        rep["first_stage"], rep["num_stages"] = next_stage, num_stages
        rep["max_batch_tokens"] = given.limits.max_batch_tokens
        rep["max_num_seqs"] = given.limits.max_num_seqs
        rep["max_step_context"] = given.limits.max_step_context_tokens or 0
        rep["block_tokens"] = given.kv_block_tokens
        blocks = given.kv_capacity_tokens // given.kv_block_tokens
        rep["capacity_blocks"] = rep["free_blocks"] = blocks
        rep["watermark_blocks"] = int(blocks * _WATERMARK_FRAC)
        rep["work_weight"] = _work_weight(given)
        for name in ("prompt", "pull", "join"):
            rep[f"{name}_head"] = rep[f"{name}_tail"] = NONE
        for position, table in enumerate(given.stages):
            st = stage[next_stage + position]
            st["replica"], st["table"] = index, table_of[table]
            st["is_last"] = position == num_stages - 1
            st["current"] = st["prefill_head"] = st["decode_head"] = NONE
        rep["idle_group"], rep["free_group"] = NONE, next_group
        for position in range(num_stages + 1):
            grp = group[next_group + position]
            grp["replica"], grp["offset"] = index, next_member
            grp["next"] = next_group + position + 1 if position < num_stages else NONE
            next_member += given.limits.max_num_seqs
        next_stage += num_stages
        next_group += num_stages + 1
    return replica


@lru_cache(maxsize=256)
def _work_weight(replica: ServingReplica) -> float:
    """Time this replica needs for a token of work, to compare unlike replicas."""
    tokens = replica.limits.max_batch_tokens
    if replica.phase is Phase.DECODE:
        return 1.0 / replica.kv_capacity_tokens
    slowest = max(stage.prefill_step_ms([tokens]) for stage in replica.stages)
    return max(slowest, 1e-9) / tokens


def _fill_requests(requests: Requests, options: SimulationOptions) -> Array:
    request = np.zeros(len(requests), dtype=state.REQUEST)
    request["arrival_ms"] = requests.arrival_ms
    if options.concurrency is not None:
        request["arrival_ms"][: options.concurrency] = 0.0
        request["arrival_ms"][options.concurrency :] = np.inf
    request["input_tokens"] = requests.input_tokens
    request["output_tokens"] = requests.output_tokens
    for name in (
        "prefill_start_ms",
        "first_token_ms",
        "transfer_start_ms",
        "decode_ready_ms",
        "finish_ms",
    ):
        request[name] = np.nan
    for name in ("prefill_replica", "decode_replica", "next", "batch_next"):
        request[name] = NONE
    return request


def _fill_clock(
    system: ServingSystem, requests: Requests, options: SimulationOptions
) -> Array:
    array = np.zeros(1, dtype=state.CLOCK)
    clock = array[0]
    is_round_robin = system.routing is Routing.ROUND_ROBIN
    clock["routing"] = state.ROUND_ROBIN if is_round_robin else state.SHORTEST_QUEUE
    clock["fast_forward"] = options.is_fast_forward
    clock["concurrency"] = options.concurrency or 0
    clock["kv_bytes_per_token"] = system.kv_bytes_per_token
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
    latency, rate = np.zeros(num * num), np.zeros(num * num)
    by_pair = {route.source * num + route.target: route for route in system.routes}
    names = sorted({share.edge for r in system.routes for share in r.edges})
    number = {name: i for i, name in enumerate(names)}
    first = np.zeros(num * num + 1, dtype=np.int64)
    edge_id: list[int] = []
    edge_rate: list[float] = []
    for pair in range(num * num):
        route = by_pair.get(pair)
        if route is not None:
            latency[pair], rate[pair] = route.latency_ms, route.ms_per_byte
            edge_id += [number[share.edge] for share in route.edges]
            edge_rate += [share.ms_per_byte for share in route.edges]
        first[pair + 1] = len(edge_id)
    return {
        "route_latency_ms": latency,
        "route_ms_per_byte": rate,
        "route_edges": first,
        "edge_id": np.array(edge_id, dtype=np.int64),
        "edge_ms_per_byte": np.array(edge_rate),
        "edge_free_ms": np.zeros(len(names)),
    }
