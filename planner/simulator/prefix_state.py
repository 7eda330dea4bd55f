"""Arrays of prefix caches, early rejection and sessions: records beside `state`'s."""

import numpy as np

CACHE = np.dtype(
    [
        ("capacity_blocks", "i8"),
        ("limit", "i8"),
        ("num_blocks", "i8"),
        ("num_taken", "i8"),
        ("oldest", "i8"),
        ("newest", "i8"),
        ("free", "i8"),
        ("first_node", "i8"),
        ("first_entry", "i8"),
        ("mask", "i8"),
        ("block_tokens", "i8"),
        ("is_leftover", "i8"),
        ("is_global", "i8"),
        ("keeps_outputs", "i8"),
        ("copies", "i8"),
        ("load_ms_per_token", "f8"),
        ("fetch_ms_per_token", "f8"),
        ("balancing_threshold", "f8"),
    ]
)
"""A prefix cache: its nodes in order of use, and its part of the hash table."""

CACHE_NODE = np.dtype([("key", "i8"), ("older", "i8"), ("newer", "i8")])
CACHE_ENTRY = np.dtype([("key", "i8"), ("node", "i8")])

REUSE = np.dtype(
    [
        ("found_blocks", "i8"),
        ("fetched_blocks", "i8"),
        ("hit_blocks", "i8"),
        ("hit_tokens", "i8"),
        ("ready_ms", "f8"),
        ("load_ms", "f8"),
        ("batch_load_ms", "f8"),
        ("batch_ready_ms", "f8"),
    ]
)
"""What a request has from a prefix cache; as for `REQUEST`, a batch is its first."""

FORECAST = np.dtype(
    [
        ("work_ms", "f8"),
        ("ttft_ms", "f8"),
        ("first_token_ms", "f8"),
        ("next", "i8"),
        ("previous", "i8"),
        ("is_let_in", "i8"),
    ]
)
"""What the router expects of a request's prefill."""

EARLY_REJECTION = np.dtype(
    [
        ("rule", "i8"),
        ("ttft_ms", "f8"),
        ("tbt_ms", "f8"),
        ("decode_ms", "f8"),
        ("head", "i8"),
        ("num_starts", "i8"),
        ("started_tokens", "i8"),
    ]
)

DECODE_START = np.dtype([("time_ms", "f8"), ("tokens", "i8")])
"""A decode that has begun, and the prompt tokens of all up to it."""

TURN = np.dtype([("next", "i8"), ("think_ms", "f8")])
"""The turn of the session after this one, and the time before this one."""
