"""Arrays of the simulation of a unit: one record an LLM, request and job."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NONE = -1
"""End of a linked list; nothing under way."""

ARRIVED, DONE, REJECTED = 0, 1, 2
"""Status of a request: in the system, finished, refused (longer than its quota)."""

REQUEST = np.dtype(
    [
        ("arrival_ms", "f8"),
        ("prefill_start_ms", "f8"),
        ("first_token_ms", "f8"),
        ("finish_ms", "f8"),
        ("llm", "i8"),
        ("input_tokens", "i8"),
        ("output_tokens", "i8"),
        ("done_tokens", "i8"),
        ("finish_step", "i8"),
        ("admission", "i8"),
        ("num_preemptions", "i8"),
        ("is_prefilled", "i8"),
        ("status", "i8"),
        ("next", "i8"),
    ]
)

LLM = np.dtype(
    [
        ("quota_tokens", "i8"),
        ("least_quota_tokens", "i8"),
        ("held_tokens", "i8"),
        ("bytes_per_token", "f8"),
        ("max_num_seqs", "i8"),
        ("max_batch_tokens", "i8"),
        ("num_running", "i8"),
        ("prompt_head", "i8"),
        ("prompt_tail", "i8"),
        ("join_head", "i8"),
        ("join_tail", "i8"),
        ("first_member", "i8"),
        ("num_members", "i8"),
        ("kv_tokens", "i8"),
        ("step", "i8"),
        ("is_decoding", "i8"),
        ("run_start_ms", "f8"),
        ("run_steps", "i8"),
        ("run_end_ms", "f8"),
        ("fixed_ms", "f8"),
        ("slope_ms", "f8"),
        ("decode_memory_part", "f8"),
        ("decode_arithmetic_part", "f8"),
        ("usage_sum", "f8"),
        ("num_usages", "i8"),
        ("prefill_busy_ms", "f8"),
        ("decode_busy_ms", "f8"),
        ("num_decode_tokens", "i8"),
        ("peak_held_tokens", "i8"),
    ]
)

PREFILL = np.dtype(
    [
        ("llm", "i8"),
        ("head", "i8"),
        ("start_ms", "f8"),
        ("left_frac", "f8"),
        ("settled_ms", "f8"),
        ("duration_ms", "f8"),
        ("end_ms", "f8"),
        ("alone_ms", "f8"),
        ("memory_ms", "f8"),
        ("arithmetic_ms", "f8"),
    ]
)
"""The prefill step under way; `llm` is NONE when there is none."""

CLOCK = np.dtype(
    [
        ("now_ms", "f8"),
        ("next_arrival", "i8"),
        ("admissions", "i8"),
        ("next_prefill", "i8"),
        ("next_decode", "i8"),
        ("shares_space", "i8"),
        ("decodes_only", "i8"),
        ("is_changed", "i8"),
        ("adapt_ms", "f8"),
        ("next_adapt_ms", "f8"),
        ("prefill_memory_part", "f8"),
        ("prefill_arithmetic_part", "f8"),
        ("num_done", "i8"),
        ("num_rejected", "i8"),
        ("num_preemptions", "i8"),
        ("num_adaptations", "i8"),
        ("num_events", "i8"),
    ]
)

DECODE_STEP = np.dtype(
    [
        (f"{part}{power}", "f8")
        for part in ("whole", "memory", "arithmetic", "exchange", "least_memory")
        for power in ("0", "1")
    ]
    + [("least_arithmetic0", "f8"), ("least_arithmetic1", "f8")]
)
"""What a decode step of a batch asks for, each as fixed + slope * KV tokens, in ms."""

PREFILL_KNOT = np.dtype(
    [
        ("tokens", "f8"),
        ("linear_ms", "f8"),
        ("whole_ms", "f8"),
        ("memory_ms", "f8"),
        ("arithmetic_ms", "f8"),
        ("exchange_ms", "f8"),
        ("least_memory_ms", "f8"),
        ("least_arithmetic_ms", "f8"),
    ]
)
"""A prefill step of that many tokens: its linear layers, and what prompts of the mean
length ask for."""

Array = NDArray[Any]


class World(NamedTuple):
    """Everything the kernel reads and writes.

    `decode_step` has a row for each LLM and a column for each batch; `prefill_knot` a
    row for each LLM; `per_square_ms` is the time of a squared prompt token. `member`
    holds the decoding requests of LLM i from `first_member` on. Jobs are the steps
    under way: their time alone on their SMs, and the parts of it that others stretch.
    """

    clock: Array
    request: Array
    llm: Array
    member: Array
    prefill: Array
    decode_step: Array
    prefill_knot: Array
    per_square_ms: Array
    job_base_ms: Array
    job_memory_ms: Array
    job_arithmetic_ms: Array
