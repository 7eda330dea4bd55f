"""Sessions: prompts that grow by what was said, shared blocks, and their load."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.workload.arrivals import PoissonArrivals
from planner.workload.sessions import Sessions
from planner.workload.turns import Turns
from planner.workload.workload import Workload

THREE = Turns(previous=np.array([-1, -1, 0]), think_ms=np.zeros(3))


def drawn(sessions: Sessions, new=(10, 20, 7), answers=(6, 5, 4)):
    return sessions.requests(
        THREE,
        starts_ms=np.array([0.0, 3.0]),
        new_tokens=np.array(new),
        output_tokens=np.array(answers),
    )


def test_a_prompt_holds_what_was_said_before():
    # Turn 2 of session 0: 8 shared + 10 + 6 + 7.
    requests = drawn(
        Sessions(mean_turns=2, think_s=0, shared_prompt_tokens=8, block_tokens=4)
    )
    assert requests.input_tokens.tolist() == [18, 28, 31]
    assert requests.arrival_ms.tolist() == [0, 3, 3]
    first, second, third = requests.prefix_blocks.rows()
    # Full blocks: 4, 7 and 7, of which 2 are common to all.
    assert [len(row) for row in (first, second, third)] == [4, 7, 7]
    assert first[:2] == second[:2] == third[:2]
    assert third[:4] == first
    assert not set(first[2:]) & set(second[2:])
    assert not set(third[2:]) & set(second[2:])


def test_beyond_the_longest_context_a_new_conversation_begins():
    # 10 + 6 + 7 + 4 = 27 tokens with the answer.
    cut = Sessions(mean_turns=2, think_s=0, max_context_tokens=26, block_tokens=1)
    requests = drawn(cut)
    assert requests.input_tokens.tolist() == [10, 20, 7]
    rows = requests.prefix_blocks.rows()
    assert not set(rows[2]) & set(rows[0])
    whole = Sessions(mean_turns=2, think_s=0, max_context_tokens=27)
    assert drawn(whole).input_tokens.tolist() == [10, 20, 23]


@given(st.integers(1, 400), st.floats(1, 20), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_request_is_in_one_session(num_requests, mean_turns, seed):
    sessions = Sessions(mean_turns=mean_turns, think_s=1)
    turns = sessions.deal(num_requests, np.random.default_rng(seed))
    assert len(turns) == num_requests  # the checks of Turns say the rest


def test_turns_and_think_times_have_the_asked_means():
    sessions = Sessions(mean_turns=4, think_s=10)
    turns = sessions.deal(40_000, np.random.default_rng(1))
    assert len(turns) / turns.num_first == pytest.approx(4, rel=0.03)
    assert turns.think_ms.mean() == pytest.approx(10_000, rel=0.03)


def test_the_rate_is_that_of_all_turns():
    workload = Workload.of_lengths(
        "64x16",
        arrivals=PoissonArrivals(),
        rate_rps=8,
        sessions=Sessions(mean_turns=4, think_s=10),
    )
    requests = workload.draw(20_000, seed=3)
    assert requests.rate_rps == pytest.approx(8, rel=0.03)
    # Turns before a turn: mean - 1 = 3 of 80 tokens each, and its own 64.
    assert workload.mean_input_tokens == pytest.approx(64 + 3 * 80, rel=0.1)
    faster = workload.draw(20_000, seed=3, rate_rps=16)
    assert faster.input_tokens.tolist() == requests.input_tokens.tolist()
    np.testing.assert_allclose(2 * faster.arrival_ms, requests.arrival_ms)
