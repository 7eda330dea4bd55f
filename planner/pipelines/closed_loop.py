"""Closed loop: the tokens per second that a layout serves, token by token.

Idea
    The maximum flow of a layout assumes typical batches and perfect overlap. Served
    rates are lower: requests are bounded by KV room, every token makes a round trip
    through all machines of its route, and decodes wait behind prompts. So requests are
    kept waiting at the coordinator, let in while there is KV room, routed in proportion
    to the planned flow, and every step and every message is played through.

Model
    - A machine serves what waits in one step at a time, with the latencies of its step
      table; a token that enters at a later layer takes part from there on.
    - Links send one message after the other; adapters do not bind beside them.
    - A request reserves KV room for its prompt and its whole answer.
    - The first token comes from the prompt; `decode_tokens_per_s` counts the others.
"""

import math
from dataclasses import dataclass

import numpy as np

from clusters.fields import check_fields, spec
from clusters.units import MS_PER_S, s_to_ms
from models.latency.step_table import interpolate_array
from planner.pipelines import loop_state
from planner.pipelines.costs import CostedFleet
from planner.pipelines.fleet import COORDINATOR, Fleet
from planner.pipelines.flow import LayerFlow
from planner.pipelines.layout import Layout
from planner.pipelines.loop_kernel import run
from planner.pipelines.loop_state import NONE, Array, World
from planner.workload.requests import Requests

_MAX_IN_FLIGHT = 4096
"""Requests under way; beyond, more would only wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """How the machines of a pipeline form a step, and how long they are watched."""

    chunk_tokens: int | None = spec(
        "Prompt tokens of a step, decodes beside them (chunked prefill). None: whole "
        "prompts, in steps without decodes.",
        unit="tokens",
        ge=1,
        default=None,
    )
    max_prompt_tokens: int = spec(
        "Prompt tokens of a step of whole prompts; a longer prompt runs alone.",
        unit="tokens",
        ge=1,
        default=2048,
    )
    max_decodes: int = spec("Decodes of a step.", unit="requests", ge=1, default=256)
    max_prompts: int = spec(
        "Prompts under way at a time; the others wait at the coordinator, so that they "
        "do not hold up the decodes of all machines.",
        unit="requests",
        ge=1,
        default=256,
    )
    kv_fill_frac: float = spec(
        "Share of a machine's KV room that requests are let in to.",
        unit="1",
        gt=0,
        le=1,
        default=0.99,
    )
    warm_up_s: float = spec(
        "Simulated time before measuring.", unit="s", ge=0, default=60.0
    )
    measured_s: float = spec("Measured simulated time.", unit="s", gt=0, default=600.0)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a closed loop served in the measured time."""

    decode_tokens_per_s: float = spec("Tokens behind the first.", unit="tokens/s", ge=0)
    prompts_per_s: float = spec("Prompts computed.", unit="requests/s", ge=0)
    in_flight: float = spec("Requests under way, on average.", unit="requests", ge=0)
    round_trip_ms: float = spec("Mean time between tokens.", unit="ms", ge=0)
    busy_frac: tuple[float, ...] = spec("Share of time busy, by machine.", unit="1")
    num_refused: int = spec(
        "Requests longer than the KV room.", unit="requests", default=0
    )


def serve(
    machines: CostedFleet,
    layout: Layout,
    flow: LayerFlow,
    requests: Requests,
    settings: LoopSettings | None = None,
) -> Served:
    """Serve `requests`, over and over, along the planned flow."""
    settings = settings or LoopSettings()
    world = _build(machines, layout, flow, requests, settings)
    run(world)
    clock = world.clock[0]
    measured_ms = s_to_ms(settings.measured_s)
    busy = np.zeros(machines.fleet.num_machines)
    busy[[segment.machine for segment in layout.segments]] = world.machine["busy_ms"]
    return Served(
        decode_tokens_per_s=float(clock["num_tokens"]) / settings.measured_s,
        prompts_per_s=float(clock["num_prompts"]) / settings.measured_s,
        in_flight=float(clock["in_flight_ms"]) / measured_ms,
        round_trip_ms=float(clock["round_trip_ms"]) / max(1, int(clock["num_tokens"])),
        busy_frac=tuple((busy / measured_ms).tolist()),
        num_refused=int(clock["num_refused"]),
    )


# --- Arrays ---------------------------------------------------------------------------


def _build(
    machines: CostedFleet,
    layout: Layout,
    flow: LayerFlow,
    requests: Requests,
    settings: LoopSettings,
) -> World:
    """The arrays of one run: nodes are the segments of the layout, in their order."""
    fleet, num = machines.fleet, len(layout.segments)
    nodes = [*(segment.machine for segment in layout.segments), COORDINATOR]
    picked = np.ix_(nodes, nodes)
    rates = fleet.link_bytes_per_s[picked]
    ms_per_byte = np.divide(MS_PER_S, rates, out=np.zeros_like(rates), where=rates > 0)
    longest = int(requests.input_tokens.max())
    chunk = settings.chunk_tokens or settings.max_prompt_tokens
    chunks = -(-longest // chunk) if settings.chunk_tokens else 1
    request = np.zeros(_MAX_IN_FLIGHT, dtype=loop_state.REQUEST)
    request["next_free"] = [*range(1, _MAX_IN_FLIGHT), NONE]
    item = _items(1 + chunks)
    slot = np.zeros(num + len(item), dtype=loop_state.SLOT)
    slot["position"] = NONE
    queue = np.full((num, 2), NONE, dtype=np.int64).repeat(3).view(loop_state.QUEUE)
    message = np.zeros(num + 1, dtype=loop_state.MESSAGE)
    message["head"] = NONE
    return World(
        clock=_clock(fleet, settings, chunk if settings.chunk_tokens else longest),
        machine=_machines(machines, layout, settings.kv_fill_frac),
        queue=queue.reshape(num, 2),
        request=request,
        item=item,
        message=message,
        targets=np.zeros(num + 1, dtype=np.int64),
        waiting=np.zeros(num, dtype=np.int64),
        work=np.zeros(fleet.num_layers, dtype=loop_state.WORK),
        heap=np.zeros(len(slot), dtype=np.int64),
        slot=slot,
        **_hops(layout, flow),
        route_machine=np.zeros((_MAX_IN_FLIGHT, num + 1), dtype=np.int64),
        route_skip=np.zeros((_MAX_IN_FLIGHT, num + 1), dtype=np.int64),
        route_hop=np.zeros((_MAX_IN_FLIGHT, num + 1), dtype=np.int64),
        link_free_ms=np.zeros((num + 1, num + 1)),
        link_ms_per_byte=ms_per_byte,
        link_latency_ms=fleet.link_latency_ms[picked],
        input_tokens=requests.input_tokens,
        output_tokens=requests.output_tokens,
        **_tables(machines, layout, settings, max(longest, chunk)),
    )


def _clock(fleet: Fleet, settings: LoopSettings, chunk_tokens: int) -> Array:
    clock = np.zeros(1, dtype=loop_state.CLOCK)
    clock["measure_from_ms"] = s_to_ms(settings.warm_up_s)
    clock["end_ms"] = s_to_ms(settings.warm_up_s + settings.measured_s)
    clock["chunk_tokens"] = chunk_tokens
    clock["step_tokens"] = settings.chunk_tokens or settings.max_prompt_tokens
    clock["max_decodes"] = settings.max_decodes
    clock["max_prompts"] = settings.max_prompts
    clock["mixes_decodes"] = settings.chunk_tokens is not None
    clock["token_bytes"] = fleet.token_bytes
    clock["hop_bytes"] = fleet.hop_bytes
    return clock


def _items(per_request: int) -> Array:
    item = np.zeros(_MAX_IN_FLIGHT * per_request, dtype=loop_state.ITEM)
    item["request"] = np.repeat(np.arange(_MAX_IN_FLIGHT), per_request)
    item["next"] = NONE
    item["is_decode"][::per_request] = 1
    item["tokens"] = 1
    return item


def _machines(machines: CostedFleet, layout: Layout, fill_frac: float) -> Array:
    """Machines with their KV room, counted in tokens times layers."""
    machine = np.zeros(len(layout.segments), dtype=loop_state.MACHINE)
    for index, segment in enumerate(layout.segments):
        held = segment.num_layers
        room = machines.of(segment.machine).kv_tokens[held - 1] * held
        machine[index]["layers"] = held
        machine[index]["kv_free"] = math.floor(fill_frac * room)
    return machine


def _hops(layout: Layout, flow: LayerFlow) -> dict[str, Array]:
    """Where the flow goes on from each node, and the layers skipped there."""
    node = {segment.machine: i for i, segment in enumerate(layout.segments)}
    node[COORDINATOR] = len(layout.segments)
    ends = {COORDINATOR: 0} | {s.machine: s.end for s in layout.segments}
    firsts = {s.machine: s.first for s in layout.segments}
    links = sorted(flow.links, key=lambda link: (node[link.source], node[link.target]))
    starts = np.zeros(len(node) + 1, dtype=np.int64)
    for link in links:
        starts[node[link.source] + 1] += 1
    skips = [
        0 if link.target == COORDINATOR else ends[link.source] - firsts[link.target]
        for link in links
    ]
    return {
        "hop_start": np.cumsum(starts),
        "hop_target": np.array([node[link.target] for link in links], dtype=np.int64),
        "hop_skip": np.array(skips, dtype=np.int64),
        "hop_weight": np.array([link.tokens_per_s for link in links]),
        "hop_load": np.zeros(len(links)),
    }


def _tables(
    machines: CostedFleet, layout: Layout, settings: LoopSettings, longest: int
) -> dict[str, Array]:
    """Step latencies of every machine with its layers, at every number of tokens."""
    most = settings.max_decodes
    tokens = np.arange(longest + most + 1, dtype=np.float64)
    steps = [
        machines.of(segment.machine).steps[segment.num_layers - 1]
        for segment in layout.segments
    ]
    linear = np.array(
        [interpolate_array(tokens, t.prefill_tokens, t.prefill_ms) for t in steps]
    )
    decode = [table.decode_arrays(most) for table in steps]
    fixed = np.array([each[0] for each in decode])
    extra = np.maximum(0.0, fixed - linear[:, : most + 1])
    extra[:, 0] = 0.0
    return {
        "linear_ms": linear,
        "prefill_squares": np.array([t.prefill_per_sq_token_ms for t in steps]),
        "decode_fixed": fixed,
        "decode_slope": np.array([each[1] for each in decode]),
        "mixed_extra": extra,
    }
