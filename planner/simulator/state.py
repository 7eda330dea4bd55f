"""Arrays of the simulation: one record a request, replica, pipeline stage and batch.

The kernel works on numpy record arrays only. Queues are linked lists through the
requests themselves (`next`), a prefill batch is named after its first request, and a
decode group keeps its members in a heap by the step at which they finish; so nothing
is allocated while the simulation runs.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NONE = -1
"""End of a linked list; no group; no batch."""

TO_BE_CHOSEN = -2
"""Decode replica of a request of Splitwise's pools while the one it had has failed."""

IDLE, PREFILL, DECODE, MIXED = 0, 1, 2, 3
"""What a stage is doing; `MIXED`: a step with prompt chunks, with decodes or not."""

ARRIVED, DONE, REJECTED, AWAITED = 0, 1, 2, 3
"""Status of a request: in the system, finished, refused (longer than the KV cache, or
by early rejection), or its time of arrival follows from how others are served."""

ANY_SLICE = -1
"""Replicas of any pairing group."""

ROUND_ROBIN, SHORTEST_QUEUE, PENDING_TOKENS, RANDOM, POWER_OF_TWO = range(5)
TETRIINFER, SPLITWISE = 5, 6
"""Routing policies; the last two count what is promised to each replica."""

CACHE_AWARE = -1
"""Routing by the expected TTFT."""

FLOW_SHARES = -2
"""Routing by the planned shares of the routes."""

FCFS, SHORTEST_FIRST, LONGEST_FIRST = range(3)
"""Orders of the prompts of a window."""

GREEDY, RESERVE_STATIC, RESERVE_DYNAMIC = range(3)
"""Rules by which a decode replica fetches requests."""

ADMIT_ALL, ADMIT_BY_CURRENT, ADMIT_BY_PREDICTED = 0, 1, 2
"""Rules of early rejection."""

DECODE_DONE, PREFILL_DONE, TRANSFER_DONE, OUTSIDE, SERVES, TURN_DUE = 0, 1, 2, 3, 4, 5
"""Event priorities at equal times; arrivals come last.

Decode steps end first, so that whoever routes a prefilled request at the same time
sees the work that is left, however many steps a run has jumped over.
"""

FAIL, DRAIN, FLIP, OPEN = 0, 1, 2, 3
"""What happens to a replica from outside; `OPEN`: it recovers, or scales up."""

GAP_LEAST_MS, GAP_BINS_PER_E, NUM_GAP_BINS = 1e-3, 200.0, 4607
"""Histogram of the gaps between tokens: bins of 0.5 % from 1 us to 10^7 ms."""

REQUEST = np.dtype(
    [
        ("arrival_ms", "f8"),
        ("prefill_start_ms", "f8"),
        ("first_token_ms", "f8"),
        ("transfer_start_ms", "f8"),
        ("decode_ready_ms", "f8"),
        ("finish_ms", "f8"),
        ("last_token_ms", "f8"),
        ("batch_tokens", "f8"),
        ("batch_squares", "f8"),
        ("admission", "i8"),
        ("input_tokens", "i8"),
        ("output_tokens", "i8"),
        ("done_tokens", "i8"),
        ("cached_tokens", "i8"),
        ("last_batch", "i8"),
        ("prefill_replica", "i8"),
        ("decode_replica", "i8"),
        ("num_preemptions", "i8"),
        ("status", "i8"),
        ("expected_output", "i8"),
        ("dice", "i8"),
        ("next", "i8"),
        ("pull_next", "i8"),
        ("link_ms", "f8"),
        ("begun_ms", "f8"),
        ("made_ms", "f8"),
        ("is_streamed", "i8"),
        ("left_bytes", "f8"),
        ("rate_bytes_per_ms", "f8"),
        ("streamed_tokens", "i8"),
        ("batch_next", "i8"),
        ("batch_count", "i8"),
        ("batch_tail", "i8"),
    ]
)

REPLICA = np.dtype(
    [
        ("prefills", "i8"),
        ("decodes", "i8"),
        ("slice", "i8"),
        ("first_stage", "i8"),
        ("num_stages", "i8"),
        ("free_group", "i8"),
        ("idle_group", "i8"),
        ("first_group", "i8"),
        ("num_flying", "i8"),
        ("max_batch_tokens", "i8"),
        ("max_num_seqs", "i8"),
        ("max_step_prompts", "i8"),
        ("max_micro_batch", "i8"),
        ("max_step_context", "i8"),
        ("is_chunked", "i8"),
        ("mixes_decodes", "i8"),
        ("cuts_prompts", "i8"),
        ("reserves_output", "i8"),
        ("reserved_output", "i8"),
        ("is_request_level", "i8"),
        ("is_batch_padded", "i8"),
        ("num_ended", "i8"),
        ("ended_head", "i8"),
        ("tile_rest", "i8"),
        ("max_chunk", "i8"),
        ("max_partial", "i8"),
        ("has_chunks_in_turn", "i8"),
        ("num_partial", "i8"),
        ("partial_head", "i8"),
        ("partial_tail", "i8"),
        ("batches_begun", "i8"),
        ("batches_ended", "i8"),
        ("block_tokens", "i8"),
        ("capacity_blocks", "i8"),
        ("watermark_blocks", "i8"),
        ("free_blocks", "i8"),
        ("least_free_blocks", "i8"),
        ("cache", "i8"),
        ("own_blocks", "i8"),
        ("queue_ms", "f8"),
        ("is_stepwise", "i8"),
        ("num_running", "i8"),
        ("prompt_head", "i8"),
        ("prompt_tail", "i8"),
        ("pull_head", "i8"),
        ("pull_tail", "i8"),
        ("join_head", "i8"),
        ("join_tail", "i8"),
        ("num_joining", "i8"),
        ("dirty", "i8"),
        ("work_tokens", "f8"),
        ("work_weight", "f8"),
        ("pending_tokens", "i8"),
        ("promised_tokens", "i8"),
        ("num_foreign", "i8"),
        ("num_heavy", "i8"),
        ("num_light", "i8"),
        ("prompt_order", "i8"),
        ("prompt_window", "i8"),
        ("window_left", "i8"),
        ("decode_admission", "i8"),
        ("other_weight", "f8"),
        ("other_micro_batch", "i8"),
        ("is_open", "i8"),
        ("is_flipping", "i8"),
        ("switch_ms", "f8"),
        ("num_requests", "i8"),
        ("kv_last_ms", "f8"),
        ("kv_last_blocks", "f8"),
        ("kv_block_ms", "f8"),
        ("kv_peak_blocks", "i8"),
        ("next_sample", "i8"),
        ("num_busy", "i8"),
        ("active_since_ms", "f8"),
        ("active_ms", "f8"),
    ]
)

STAGE = np.dtype(
    [
        ("replica", "i8"),
        ("table", "i8"),
        ("per_sq_token_ms", "f8"),
        ("is_last", "i8"),
        ("doing", "i8"),
        ("current", "i8"),
        ("prefill_head", "i8"),
        ("prefill_tail", "i8"),
        ("decode_head", "i8"),
        ("decode_tail", "i8"),
        ("run_start_ms", "f8"),
        ("run_steps", "i8"),
        ("run_fixed_ms", "f8"),
        ("run_slope_ms", "f8"),
        ("prefill_busy_ms", "f8"),
        ("decode_busy_ms", "f8"),
        ("num_prefill_steps", "i8"),
        ("num_decode_steps", "i8"),
        ("num_prefill_tokens", "i8"),
        ("num_decode_tokens", "i8"),
        ("mixed_busy_ms", "f8"),
        ("num_mixed_steps", "i8"),
        ("num_mixed_tokens", "i8"),
    ]
)

GROUP = np.dtype(
    [
        ("replica", "i8"),
        ("num_members", "i8"),
        ("offset", "i8"),
        ("step", "i8"),
        ("covered_step", "i8"),
        ("kv_tokens", "i8"),
        ("next", "i8"),
        ("head", "i8"),
        ("tail", "i8"),
        ("num_padded", "i8"),
        ("token_ms", "f8"),
        ("late_head", "i8"),
        ("num_late", "i8"),
        ("width", "i8"),
        ("chunk_tokens", "i8"),
        ("chunk_squares", "f8"),
        ("load_ms", "f8"),
        ("ready_ms", "f8"),
    ]
)

SLOT = np.dtype(
    [("time_ms", "f8"), ("priority", "i8"), ("sequence", "i8"), ("position", "i8")]
)

CLOCK = np.dtype(
    [
        ("now_ms", "f8"),
        ("sequence", "i8"),
        ("heap_size", "i8"),
        ("next_arrival", "i8"),
        ("num_open", "i8"),
        ("num_dirty", "i8"),
        ("admissions", "i8"),
        ("next_prefill", "i8"),
        ("next_decode", "i8"),
        ("num_done", "i8"),
        ("num_rejected", "i8"),
        ("num_preemptions", "i8"),
        ("num_events", "i8"),
        ("counts_gaps", "i8"),
        ("num_spans", "i8"),
        ("num_spans_left_out", "i8"),
        ("routing", "i8"),
        ("heavy_output", "i8"),
        ("takes_ratio", "i8"),
        ("max_pending", "i8"),
        ("fast_forward", "i8"),
        ("concurrency", "i8"),
        ("hold_ms", "f8"),
        ("poll_ms", "f8"),
        ("release_ms", "f8"),
        ("is_ramped", "i8"),
        ("kv_bytes_per_token", "f8"),
        ("least_layer_wise", "i8"),
        ("num_layers", "f8"),
        ("layer_wise_ms", "f8"),
        ("transfer_block_ms", "f8"),
        ("is_fair", "i8"),
        ("num_flows", "i8"),
        ("first_flow", "i8"),
        ("flows_ms", "f8"),
        ("num_prefills", "i8"),
        ("num_decodes", "i8"),
        ("wait_head", "i8"),
        ("wait_tail", "i8"),
        ("unsent_head", "i8"),
        ("unsent_tail", "i8"),
        ("next_outside", "i8"),
        ("num_recomputed", "i8"),
        ("num_recomputed_tokens", "i8"),
        ("num_rerouted", "i8"),
        ("sample_ms", "f8"),
        ("ttft_limit_ms", "f8"),
        ("tpot_limit_ms", "f8"),
        ("e2e_limit_ms", "f8"),
        ("max_ttft_misses", "i8"),
        ("max_tpot_misses", "i8"),
        ("max_e2e_misses", "i8"),
        ("max_joint_misses", "i8"),
        ("ttft_misses", "i8"),
        ("tpot_misses", "i8"),
        ("e2e_misses", "i8"),
        ("joint_misses", "i8"),
    ]
)

MEMBER = np.dtype([("finish", "i8"), ("request", "i8")])
"""A request in a decode group, and the step of the group at which it ends."""

KNOT = np.dtype([("tokens", "f8"), ("ms", "f8")])
"""A knot of F, the linear layers of a step."""

BATCH = np.dtype(
    [
        ("fixed_ms", "f8"),
        ("slope_ms", "f8"),
        ("mixed_ms", "f8"),
        ("mixed_slope_ms", "f8"),
        ("mixed_sq_ms", "f8"),
    ]
)
"""G and H of a decode step at a batch size, and what it adds to a mixed step."""

ROUTE = np.dtype(
    [
        ("latency_ms", "f8"),
        ("ms_per_byte", "f8"),
        ("first_edge", "i8"),
        ("share", "f8"),
        ("credit", "f8"),
    ]
)
"""A KV route; its shared links are those up to the first of the next route.

That of a replica to itself has the share of the arrivals that it prefills.
"""

EDGE_SHARE = np.dtype([("edge", "i8"), ("ms_per_byte", "f8")])
"""A shared link of a route."""

EDGE = np.dtype([("free_ms", "f8"), ("room", "f8"), ("demand", "f8")])
"""A shared link: until when it is booked; or what fair rates leave of it."""

OUTSIDE_EVENT = np.dtype(
    [("at_ms", "f8"), ("kind", "i8"), ("replica", "i8"), ("takes_ms", "f8")]
)

SPAN = np.dtype(
    [
        ("start_ms", "f8"),
        ("end_ms", "f8"),
        ("stage", "i8"),
        ("doing", "i8"),
        ("num_steps", "i8"),
        ("num_prompt_tokens", "i8"),
        ("num_decodes", "i8"),
    ]
)

Array = NDArray[Any]


class World(NamedTuple):
    """Everything the kernel reads and writes.

    The kernel gets them behind one pointer (`planner.simulator.handle`).

    `heap` holds slot numbers; slot s < num_stages is a stage, slot num_stages + i the
    KV transfer of request i. The next slot is the first end of fairly shared transfers;
    with events from outside, a timer a replica follows, and the next of these events.
    `knot` and `batch` have one row a distinct StepTable;
    `route` one record a (source, target) pair of replicas, `source * num_replicas +
    target`, and one more at the end.
    """

    clock: Array
    request: Array
    replica: Array
    stage: Array
    group: Array
    member: Array
    residues: Array
    heap: Array
    slot: Array
    dirty: Array
    prefill_replicas: Array
    decode_replicas: Array
    knot: Array
    batch: Array
    route: Array
    edge_share: Array
    edge: Array
    flow: Array
    outside: Array
    kv_samples: Array
    gap_counts: Array
    span: Array
    cache: Array
    cache_node: Array
    cache_entry: Array
    block_id: Array
    block_offset: Array
    reuse: Array
    forecast: Array
    early_rejection: Array
    decode_start: Array
    turn: Array
