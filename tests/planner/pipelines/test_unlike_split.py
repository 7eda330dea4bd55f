"""Unlike splits: equal to trying every split at every number of requests."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.links import GroupLink
from models.latency.step_table import StepTable
from models.shapes import ACTIVATION_BYTES
from planner.pipelines.costs import TypicalLoad
from planner.pipelines.stage_costs import StageCosts
from planner.pipelines.unlike_split import Line, split_of
from planner.simulator.system import Phase
from tests.planner.unlike_problems import SIX

LOAD = TypicalLoad(input_tokens=100.0, output_tokens=10.0)
MANY = 1 << 20
HOP = GroupLink(bytes_per_s=1e9, latency_ms=0.5)


def costs_of(step_ms, kv_tokens) -> StageCosts:
    """Decode takes `step_ms[k - 1]` whatever the batch, a prompt ten times that."""
    tables = tuple(
        StepTable(
            prefill_tokens=(0.0,),
            prefill_ms=(10.0 * ms,),
            decode_batch=(0.0,),
            decode_ms=(ms,),
            decode_per_kv_token_ms=(0.0,),
        )
        for ms in step_ms
    )
    return StageCosts(
        max_layers=len(tables),
        kv_tokens=tuple(kv_tokens),
        knots=tuple(range(1, len(tables) + 1)),
        tables=tables,
    )


def line_of(*stages: StageCosts) -> Line:
    return Line(llm=SIX, stages=stages, hops=(HOP,) * (len(stages) - 1))


FAST = costs_of([1.0, 2.0, 3.0, 4.0, 5.0], [MANY] * 5)
SLOW = costs_of([2.0, 4.0, 6.0, 8.0, 10.0], [MANY] * 5)


def test_a_stage_twice_as_fast_holds_twice_the_layers():
    for phase in Phase:
        found = split_of(line_of(FAST, SLOW), LOAD, phase, max_requests=64)
        assert found is not None
        assert found.layers == (4, 2)


def test_layers_that_leave_no_room_for_a_batch_go_elsewhere():
    """With four layers the fast stage holds one request, with three sixteen.

    A request takes 110 tokens of every stage, and eight a stage are the most here.
    """
    crowded = costs_of([1.0, 2.0, 3.0, 4.0, 5.0], [MANY, MANY, 16 * 110, 110, 110])
    found = split_of(line_of(crowded, SLOW), LOAD, Phase.DECODE, max_requests=16)
    assert found is not None
    assert found.layers == (3, 3)
    # A prompt at a time fits beside four layers.
    prefill = split_of(line_of(crowded, SLOW), LOAD, Phase.PREFILL, max_requests=64)
    assert prefill is not None
    assert prefill.layers == (4, 2)


def test_a_limit_on_the_time_of_a_token_takes_the_shortest_way():
    """The rate wants 3 + 3 layers (6 ms each); 1 + 5 take 2 + 7 ms and not 12."""
    first = costs_of([2.0, 4.0, 6.0, 9.0, 12.0], [MANY] * 5)
    second = costs_of([4.0, 5.0, 6.0, 8.0, 7.0], [MANY] * 5)
    line = line_of(first, second)
    free = split_of(line, LOAD, Phase.DECODE, max_requests=64)
    tight = split_of(line, LOAD, Phase.DECODE, max_requests=64, tpot_ms=11.0)
    assert free is not None
    assert tight is not None
    assert free.layers == (3, 3)
    assert tight.layers == (1, 5)
    assert tight.rate_rps < free.rate_rps


def test_stages_without_room_have_no_split():
    full = costs_of([1.0, 2.0, 3.0], [10, 10, 10])
    assert split_of(line_of(full, SLOW), LOAD, Phase.DECODE, max_requests=64) is None
    few = costs_of([1.0, 2.0], [MANY] * 2)
    assert split_of(line_of(few, few), LOAD, Phase.PREFILL, max_requests=64) is None


@st.composite
def stages(draw: st.DrawFn) -> StageCosts:
    """Times that need not rise with the layers, KV room that falls."""
    num = draw(st.integers(2, 5))
    steps = draw(st.lists(st.integers(1, 12), min_size=num, max_size=num))
    rooms = draw(st.lists(st.sampled_from([110, 330, 900, 4000, MANY]), min_size=num))
    return costs_of([float(ms) for ms in steps], sorted(rooms, reverse=True)[:num])


@settings(max_examples=40, deadline=None)
@given(st.lists(stages(), min_size=2, max_size=3), st.sampled_from([8, 64]))
def test_the_split_is_the_best_of_all(drawn, max_requests):
    line = line_of(*drawn)
    found = split_of(line, LOAD, Phase.DECODE, max_requests=max_requests)
    best, num = 0.0, 1
    while num <= max_requests:
        batch = max(1, num // len(drawn))
        sent_ms = batch * ACTIVATION_BYTES * SIX.hidden / (0.77 * 1e9) * 1e3
        short: list[tuple[float, float]] = []
        for split in product(*(range(1, s.max_layers + 1) for s in drawn)):
            rooms = [s.kv_tokens[n - 1] for s, n in zip(drawn, split, strict=True)]
            if sum(split) != SIX.num_layers or min(rooms) < LOAD.tokens * num:
                continue
            steps = [
                s.tables[n - 1].decode_step_ms(batch, 0)
                for s, n in zip(drawn, split, strict=True)
            ]
            steps[:-1] = [ms + 0.5 + 0.012 + sent_ms for ms in steps[:-1]]
            tokens = LOAD.output_tokens / batch
            if num >= len(drawn):
                best = max(best, 1e3 / (tokens * max(steps)))
            else:
                short.append((sum(steps), 1e3 / (tokens * sum(steps) / num)))
        if short:
            best = max(best, min(short)[1])
        num *= 2
    if best == 0.0:
        assert found is None
    else:
        assert found is not None
        assert found.rate_rps == pytest.approx(best, rel=1e-3)


def test_few_requests_have_the_pipeline_in_turn():
    """Room for one request: its 10 tokens take the whole way, 1 + 4 and 2 * 2 ms."""
    fast = costs_of([1.0, 2.0, 3.0, 4.0, 5.0], [110] * 5)
    found = split_of(line_of(fast, SLOW), LOAD, Phase.DECODE, max_requests=64)
    assert found is not None
    assert found.layers == (5, 1)  # 7 ms, the least
    assert found.rate_rps == pytest.approx(1e3 / (10 * 7.512), rel=1e-3)
