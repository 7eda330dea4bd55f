"""Micro-batches of a pipeline: how many requests each one holds.

At most one micro-batch a stage is under way. A request stays in its micro-batch from
step to step; newcomers take the places that are left in the one that starts next. So
the places of a replica are shared out to its stages, as in Orca (Yu et al., OSDI 2022,
algorithm 1: `max_bs` requests a batch, one batch a stage), SARATHI (Agrawal et al.,
2023, arXiv 2308.16369, section 5.3), Vidur and SGLang. The decodes of a whole replica
in one micro-batch would leave the other stages idle.
"""

from planner.simulator.system import Batching, Phase, ServingReplica

GROUPS_PER_STAGE = 2
"""Micro-batches that wait or are under way, and chunks in steps of their own."""


def max_micro_batch(given: ServingReplica) -> int:
    """Requests of one step.

    A batch at request level goes through as one, and prompts that are only prefilled
    keep no place.
    """
    places = given.limits.max_num_seqs
    is_whole = given.limits.policy is Batching.REQUEST_LEVEL
    if is_whole or given.phase is Phase.PREFILL:
        return places
    return -(-places // len(given.stages))
