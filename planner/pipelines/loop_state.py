"""Arrays of the closed-loop simulation: one record a machine, request and item.

An item is what travels: a prompt chunk, or a decode with one token. A request has one
item for each chunk and one for its decodes. Items that travel or wait together are
linked lists (`next`), so nothing is allocated while the simulation runs.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NONE = -1
"""End of a list."""

STEP_DONE, ARRIVED = 0, 1
"""Priorities of events at equal times: steps end first."""

PROMPTS, DECODES = 0, 1
"""Sorts of items, and of queues on a machine."""

INSTANT_MS = 1e-6
"""Events no further apart than this happen at one instant."""

CLOCK = np.dtype(
    [
        ("now_ms", "f8"),
        ("sequence", "i8"),
        ("heap_size", "i8"),
        ("measure_from_ms", "f8"),
        ("end_ms", "f8"),
        ("chunk_tokens", "i8"),
        ("step_tokens", "i8"),
        ("max_decodes", "i8"),
        ("mixes_decodes", "i8"),
        ("token_bytes", "f8"),
        ("hop_bytes", "f8"),
        ("next_request", "i8"),
        ("free_request", "i8"),
        ("max_prompts", "i8"),
        ("prompts_under_way", "i8"),
        ("in_flight", "i8"),
        ("in_flight_since_ms", "f8"),
        ("in_flight_ms", "f8"),
        ("num_tokens", "i8"),
        ("num_refused", "i8"),
        ("refused_in_row", "i8"),
        ("num_prompts", "i8"),
        ("round_trip_ms", "f8"),
        ("num_targets", "i8"),
        ("num_waiting", "i8"),
    ]
)

MACHINE = np.dtype(
    [
        ("layers", "i8"),
        ("kv_free", "i8"),
        ("is_busy", "i8"),
        ("is_waiting", "i8"),
        ("busy_ms", "f8"),
    ]
)

REQUEST = np.dtype(
    [
        ("input_tokens", "i8"),
        ("output_tokens", "i8"),
        ("left_tokens", "i8"),
        ("num_chunks", "i8"),
        ("chunks_back", "i8"),
        ("num_hops", "i8"),
        ("sent_ms", "f8"),
        ("next_free", "i8"),
    ]
)

ITEM = np.dtype(
    [
        ("next", "i8"),
        ("request", "i8"),
        ("position", "i8"),
        ("tokens", "i8"),
        ("past_tokens", "i8"),
        ("is_decode", "i8"),
    ]
)

QUEUE = np.dtype([("head", "i8"), ("tail", "i8"), ("batch", "i8")])
"""Items of one sort on a machine: those that wait, and those of the step under way."""

MESSAGE = np.dtype([("head", "i8"), ("tail", "i8"), ("size", "i8")])
"""Decodes that leave a node for another together."""

WORK = np.dtype(
    [("tokens", "i8"), ("squares", "f8"), ("decodes", "i8"), ("kv_tokens", "f8")]
)
"""What enters a machine at each of its layers in the step being formed."""

SLOT = np.dtype(
    [("time_ms", "f8"), ("priority", "i8"), ("sequence", "i8"), ("position", "i8")]
)

Array = NDArray[Any]


class World(NamedTuple):
    """Everything the kernel reads and writes.

    Nodes are the machines and, last, the coordinator. Event slot s < num_machines is
    the step of a machine, slot num_machines + i the journey of item i. Choices of the
    next hop lie between ``hop_start[node]`` and ``hop_start[node + 1]``. Tables have a
    row for each machine: `linear_ms` by prompt tokens and decodes of a step together,
    `decode_fixed`, `decode_slope` and `mixed_extra` by decodes.
    """

    clock: Array
    machine: Array
    queue: Array
    request: Array
    item: Array
    message: Array
    targets: Array
    waiting: Array
    work: Array
    heap: Array
    slot: Array
    hop_start: Array
    hop_target: Array
    hop_skip: Array
    hop_weight: Array
    hop_load: Array
    route_machine: Array
    route_skip: Array
    route_hop: Array
    link_free_ms: Array
    link_ms_per_byte: Array
    link_latency_ms: Array
    input_tokens: Array
    output_tokens: Array
    linear_ms: Array
    prefill_squares: Array
    decode_fixed: Array
    decode_slope: Array
    mixed_extra: Array
