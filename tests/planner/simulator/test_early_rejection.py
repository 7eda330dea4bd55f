"""Early rejection by hand: who is refused, and what each rule knows."""

import numpy as np
import pytest

from clusters.fields import InputError
from planner.simulator.prefix_settings import AdmissionRule, EarlyRejection
from planner.simulator.simulate import simulate
from planner.simulator.system import Batching, Phase
from tests.planner.simulator.systems import (
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)

PROMPTS = tiny_table(per_prompt_token_ms=1.0)
# A decode step takes as many ms as it attends to tokens.
DECODES = tiny_table(per_kv_token_ms=1.0)


def served(rows, **rule):
    system = tiny_system(
        tiny_replica(Phase.PREFILL, PROMPTS, max_num_seqs=1),
        tiny_replica(Phase.DECODE, DECODES),
        early_rejection=EarlyRejection(**rule),
    )
    return simulate(system, tiny_requests(*rows))


def test_a_request_that_would_wait_too_long_is_refused():
    # 10 ms each, one after the other: the fourth would have its token after 40 ms.
    result = served(
        [(0, 10, 1)] * 4, rule=AdmissionRule.CURRENT, ttft_ms=30.0, tbt_ms=1e6
    )
    assert result.is_rejected.tolist() == [False, False, False, True]
    assert result.num_done == 3
    assert np.isnan(result.ttft_ms[3])


ROWS = ((0, 10, 2), (1, 10, 2), (2, 10, 2))


def test_the_decodes_under_way_do_not_tell_of_prompts_in_prefill():
    # Nobody decodes before 10 ms, so all are let in, though a step of three attends to
    # more than 25 tokens.
    result = served(ROWS, rule=AdmissionRule.CURRENT, ttft_ms=1e6, tbt_ms=25.0)
    assert result.num_rejected == 0


@pytest.mark.parametrize(("decode_ms", "rejected"), [(15.0, []), (25.0, [2])])
def test_the_prediction_counts_prompts_that_decode_by_then(decode_ms, rejected):
    # First tokens are expected at 10, 20 and 30. With 15 ms a decode the first has
    # left at 30, two decodes attend to 20 tokens; with 25 ms all three do, to 30.
    result = served(
        ROWS,
        rule=AdmissionRule.PREDICTED,
        ttft_ms=1e6,
        tbt_ms=25.0,
        decode_ms=decode_ms,
    )
    assert np.flatnonzero(result.is_rejected).tolist() == rejected


def test_decodes_that_have_begun_count_for_as_long_as_they_are_taken_to_last():
    # At 50 the first two decode since 10 and 20; a third begins at 60: 40 ms later.
    rows = ((0, 10, 2), (0, 10, 2), (50, 10, 2))
    rule = {"rule": AdmissionRule.PREDICTED, "ttft_ms": 1e6, "tbt_ms": 25.0}
    assert served(rows, decode_ms=40.5, **rule).num_rejected == 0
    assert served(rows, decode_ms=50.5, **rule).num_rejected == 1


@pytest.mark.parametrize(("policy", "rejected"), [("chunked", 1), ("prefill_first", 0)])
def test_prompts_take_longer_in_steps_that_hold_decodes(policy, rejected):
    """One request of 20 tokens decodes when a prompt of 12 tokens comes at 30.

    In steps of 4 tokens, each with one decode that attends to 20 tokens at 1 ms each,
    4 + 20 ms go by for 3 tokens of the prompt: its 12 ms become 12 x 24 / 3 = 96.
    """
    table = tiny_table(per_prompt_token_ms=1.0, per_kv_token_ms=1.0)
    both = tiny_replica(
        Phase.AGGREGATED, table, policy=Batching(policy), max_batch_tokens=4
    )
    for ttft_ms, expected in ((95.0, rejected), (97.0, 0)):
        rule = EarlyRejection(rule=AdmissionRule.CURRENT, ttft_ms=ttft_ms, tbt_ms=1e6)
        system = tiny_system(both, early_rejection=rule)
        result = simulate(system, tiny_requests((0, 20, 50), (30, 12, 1)))
        assert result.num_rejected == expected


@pytest.mark.parametrize(
    ("rule", "decode_ms"),
    [(AdmissionRule.CURRENT, 5.0), (AdmissionRule.PREDICTED, None)],
)
def test_only_the_prediction_has_a_decode_time(rule, decode_ms):
    with pytest.raises(InputError, match="decode_ms"):
        EarlyRejection(rule=rule, ttft_ms=1.0, tbt_ms=1.0, decode_ms=decode_ms)
