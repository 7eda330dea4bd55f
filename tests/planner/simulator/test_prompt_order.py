"""Waiting prompts in windows: who is prefilled when."""

import pytest

from clusters.fields import InputError
from planner.simulator.simulate import simulate
from planner.simulator.system import Batching, BatchLimits, Phase
from tests.planner.simulator.systems import (
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)

STEPS = tiny_table(prefill_ms=1.0)


def order(*inputs: int, **limits) -> list[int]:
    """Requests in the order of their first tokens, when all arrive at 0."""
    replica = tiny_replica(Phase.PREFILL, STEPS, max_batch_tokens=1, **limits)
    requests = tiny_requests(*((0.0, tokens, 1) for tokens in inputs))
    first = simulate(tiny_system(replica), requests).first_token_ms
    return first.argsort(kind="stable").tolist()


def test_a_window_is_sorted_and_equal_prompts_stay_in_order():
    assert order(5, 3, 9, 3) == [0, 1, 2, 3]
    assert order(5, 3, 9, 3, prompt_order="sjf") == [1, 3, 0, 2]
    assert order(5, 3, 9, 3, prompt_order="ljf") == [2, 0, 1, 3]


def test_the_next_window_comes_after_this_one():
    """Windows (5, 3), (9, 1), (2): nobody is passed over for ever."""
    limits = {"prompt_order": "sjf", "prompt_window": 2}
    assert order(5, 3, 9, 1, 2, **limits) == [1, 0, 3, 2, 4]


def test_who_comes_later_waits_for_the_next_window():
    """At 0 the window is (4, 6); 4 runs to 1. At 0.5 a prompt of 1 token comes."""
    replica = tiny_replica(
        Phase.PREFILL, STEPS, max_batch_tokens=1, prompt_order="sjf", prompt_window=16
    )
    requests = tiny_requests((0.0, 6, 1), (0.0, 4, 1), (0.5, 1, 1))
    first = simulate(tiny_system(replica), requests).first_token_ms
    assert first.tolist() == [2.0, 1.0, 3.0]


@pytest.mark.parametrize(
    "policy", [Batching.PREFILL_FIRST, Batching.PREFILL_FIRST_CHUNKED, Batching.CHUNKED]
)
def test_shortest_first_lowers_the_mean_wait_of_a_burst(policy):
    """A burst of one long and nine short prompts, a token a millisecond."""
    means = {}
    for name in ("fcfs", "sjf", "ljf"):
        replica = tiny_replica(
            Phase.PREFILL,
            tiny_table(per_prompt_token_ms=1.0),
            policy=policy,
            max_batch_tokens=8,
            prompt_order=name,
        )
        rows = [(0.0, 80, 1), *[(0.0, 8, 1)] * 9]
        result = simulate(tiny_system(replica), tiny_requests(*rows))
        means[name] = result.ttft_ms.mean()
    # The long prompt last: mean of 8, 16, ..., 72 and 152; first: 80 + 0, 8, ..., 72.
    assert means["sjf"] == pytest.approx((360 + 152) / 10)
    assert means["fcfs"] == means["ljf"] == pytest.approx(80 + 36)


def test_a_window_without_an_order_is_refused():
    with pytest.raises(InputError, match="prompt_window"):
        BatchLimits(prompt_window=4)
