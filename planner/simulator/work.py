"""Work: how long unlike replicas need for the same work, as routers compare them."""

from functools import lru_cache

from planner.simulator.system import Phase, ServingReplica

_CONTEXT_TOKENS = 1024
"""Context at which unlike decode replicas are compared."""


@lru_cache(maxsize=256)
def work_weight(replica: ServingReplica) -> float:
    """Time this replica needs for a token of work, to compare unlike replicas.

    In prefill in a full step; in decode in a full batch of contexts of a usual length.
    """
    limits, tokens = replica.limits, replica.limits.max_batch_tokens
    if replica.phase is Phase.DECODE:
        batch = min(limits.max_num_seqs, replica.kv_capacity_tokens // _CONTEXT_TOKENS)
        batch = max(1, batch)
        context = float(batch * _CONTEXT_TOKENS)
        slowest = max(stage.decode_step_ms(batch, context) for stage in replica.stages)
        return max(slowest, 1e-9) / batch
    slowest = max(stage.prefill_step_ms([tokens]) for stage in replica.stages)
    return max(slowest, 1e-9) / tokens
