"""Sessions: prompts that grow by what was said, shared blocks, and their load."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.simulator.simulate import simulate
from planner.simulator.system import Phase
from planner.workload.arrivals import PoissonArrivals
from planner.workload.sessions import Dealt, Sessions
from planner.workload.turns import Turns
from planner.workload.workload import Workload
from tests.planner.simulator.systems import tiny_replica, tiny_system, tiny_table

THREE = Turns(previous=np.array([-1, -1, 0]), think_ms=np.zeros(3))


def drawn(sessions: Sessions, new=(10, 20, 7), answers=(6, 5, 4), earlier=(0, 0)):
    dealt = Dealt(
        turns=THREE, starts_ms=np.array([0.0, 3.0]), num_earlier=np.array(earlier)
    )
    return sessions.requests(
        dealt,
        new_tokens=np.array(new),
        output_tokens=np.array(answers),
        rng=np.random.default_rng(0),
    )


def dealt_of(sessions: Sessions, num_requests: int, *, rate_rps=8.0, seed=1) -> Dealt:
    return sessions.deal(
        num_requests,
        rate_rps=rate_rps,
        arrivals=PoissonArrivals(),
        rng=np.random.default_rng(seed),
        arrivals_rng=np.random.default_rng(seed + 1),
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


def test_a_session_under_way_has_said_something():
    # Three earlier turns of 8 + 4 tokens each.
    lengths = {"new": (8, 8, 8), "answers": (4, 4, 4), "earlier": (0, 3)}
    requests = drawn(Sessions(mean_turns=2, think_s=1), **lengths)
    assert requests.input_tokens.tolist() == [8, 44, 20]
    short = Sessions(mean_turns=2, think_s=1, max_context_tokens=47)
    assert drawn(short, **lengths).input_tokens.tolist() == [8, 8, 20]


@given(st.integers(1, 400), st.floats(1, 20), st.floats(0, 30), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_request_is_in_one_session(num_requests, mean_turns, think_s, seed):
    sessions = Sessions(mean_turns=mean_turns, think_s=think_s)
    dealt = dealt_of(sessions, num_requests, seed=seed)
    assert len(dealt.turns) == num_requests  # the checks of Turns say the rest
    assert len(dealt.starts_ms) == len(dealt.num_earlier) == dealt.turns.num_first
    assert dealt.starts_ms[0] == 0
    assert (np.diff(dealt.starts_ms) >= 0).all()


def test_think_times_have_the_asked_mean():
    dealt = dealt_of(Sessions(mean_turns=4, think_s=10), 40_000)
    assert dealt.turns.think_ms.mean() == pytest.approx(10_000, rel=0.03)


@pytest.mark.parametrize("num_requests", [1000, 20_000])
def test_requests_come_at_the_rate_from_the_first_to_the_last(num_requests):
    """Answers in no time: turns come at 8 a second, in either half of the run.

    A session lasts 30 s on average and 1,000 requests 125 s: without sessions that
    are under way at the start the first half would have fewer.
    """
    workload = Workload.of_lengths(
        "64x1",
        arrivals=PoissonArrivals(),
        rate_rps=8,
        sessions=Sessions(mean_turns=4, think_s=10),
    )
    system = tiny_system(tiny_replica(Phase.PREFILL, tiny_table()))
    result = simulate(system, workload.draw(num_requests, seed=3))
    assert result.num_done == num_requests
    arrival_ms = np.sort(result.arrival_ms)
    half = num_requests // 2
    for part in (arrival_ms[:half], arrival_ms[half:]):
        rate_rps = (len(part) - 1) * 1000 / (part[-1] - part[0])
        assert rate_rps == pytest.approx(8, rel=4 / np.sqrt(half))


def test_the_mean_prompt_is_that_of_the_draw():
    # Turns before a turn: mean - 1 = 3 of 80 tokens each, and its own 64.
    workload = Workload.of_lengths(
        "64x16",
        arrivals=PoissonArrivals(),
        rate_rps=8,
        sessions=Sessions(mean_turns=4, think_s=10),
    )
    assert workload.mean_input_tokens == 64 + 3 * 80
    requests = workload.draw(20_000, seed=3)
    assert requests.input_tokens.mean() == pytest.approx(64 + 3 * 80, rel=0.05)
