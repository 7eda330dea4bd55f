"""Places of the micro-batches of a pipeline, by hand: a step takes 1 ms a stage."""

import pytest

from planner.simulator.micro_batches import max_micro_batch
from planner.simulator.simulate import simulate
from planner.simulator.system import Batching, Phase
from tests.planner.simulator.disturbances import (
    DECODE,
    DRAIN,
    FLIP,
    IN_TURN,
    PREFILL,
    TABLE,
    event,
    link,
    serve,
)
from tests.planner.simulator.systems import (
    step_by_step,
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)

STEP = tiny_table(decode_ms=1.0)


@pytest.mark.parametrize(
    ("phase", "policy", "num_stages", "expected"),
    [
        (Phase.AGGREGATED, Batching.CHUNKED, 1, 7),
        (Phase.AGGREGATED, Batching.CHUNKED, 3, 3),
        (Phase.DECODE, Batching.PREFILL_FIRST, 2, 4),
        (Phase.PREFILL, Batching.CHUNKED, 3, 7),
        (Phase.AGGREGATED, Batching.REQUEST_LEVEL, 3, 7),
    ],
)
def test_places_are_shared_out_to_the_stages(phase, policy, num_stages, expected):
    stages = [STEP] * num_stages
    replica = tiny_replica(phase, *stages, policy=policy, max_num_seqs=7)
    assert max_micro_batch(replica) == expected


@pytest.mark.parametrize(("places", "finish_ms"), [(4, [4.0, 4.0]), (2, [4.0, 5.0])])
def test_a_full_micro_batch_leaves_newcomers_to_the_next(places, finish_ms):
    """Two requests of two steps on two stages.

    With two places a micro-batch they go together, to 2 and to 4. With one, r0 is on
    the first stage to 1 and from 2 to 3, r1 behind it, and both stages always work.
    """
    decode = tiny_replica(Phase.DECODE, STEP, STEP, max_num_seqs=places)
    requests = tiny_requests((0.0, 4, 3), (0.0, 4, 3))
    for run in (simulate, step_by_step):
        assert run(tiny_system(decode), requests).finish_ms.tolist() == finish_ms


def test_micro_batches_that_wait_together_stay_apart():
    """r0 and r1 have first tokens at 2 and 3, then a micro-batch each.

    r0 has its second token at 4 and its third at 6, r1 its second at 5. Stage 0 is busy
    with r2 from 5 to 15, stage 1 from 15 to 25. So both wait: r1, the first, goes on
    from 15 to 16 and from 25 to 26, r0 behind it, to 27.
    """
    table = tiny_table(per_prompt_token_ms=1.0, decode_ms=1.0)
    both = tiny_replica(Phase.AGGREGATED, table, table, max_batch_tokens=1)
    requests = tiny_requests((0.0, 1, 4), (0.0, 1, 3), (4.5, 10, 1))
    for run in (simulate, step_by_step):
        result = run(tiny_system(both), requests)
        assert result.first_token_ms.tolist() == [2.0, 3.0, 25.0]
        assert result.finish_ms.tolist() == [27.0, 26.0, 25.0]


def test_a_replica_that_flips_forms_the_micro_batches_of_its_phase():
    """Two places on two stages: prompts go together, decodes one a micro-batch.

    It flips at 1, and of four prompts at 10 it gets two, which are one step of 4 ms
    a stage. It flips back at 30, and alone fetches two that are prefilled from 40 to
    44: a token each, from 44 to 46 and from 45 to 47.
    """
    piped = tiny_replica(
        Phase.DECODE, TABLE, TABLE, policy=Batching.CHUNKED, max_num_seqs=2
    )
    pairs = ((1, 2), (2, 0), (2, 1), (1, 0))
    system = tiny_system(
        PREFILL,
        piped,
        DECODE,
        routing=IN_TURN,
        switch_routes=tuple(link(*pair) for pair in pairs),
    )
    requests = tiny_requests(*[(10.0, 3, 1)] * 4, *[(40.0, 3, 2)] * 2)
    flips = (event(1.0, FLIP, 1), event(30.0, FLIP, 1))
    result = serve(system, requests, *flips, event(35.0, DRAIN, 2))
    assert result.prefill_replica.tolist() == [0, 1, 0, 1, 0, 0]
    assert result.finish_ms.tolist() == [14.0, 18.0, 14.0, 18.0, 46.0, 47.0]
