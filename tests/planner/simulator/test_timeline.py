"""What stages did when: spans, bubbles, and the Chrome trace."""

import json

import numpy as np
import pytest
from hypothesis import given, settings

from planner.simulator.build import SimulationOptions
from planner.simulator.chrome_trace import chrome_trace
from planner.simulator.simulate import simulate
from planner.simulator.state import DECODE, MIXED, PREFILL
from planner.simulator.system import Batching, KvRoute, Phase
from tests.planner.simulator.systems import (
    any_system,
    many_requests,
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)

WITH_SPANS = SimulationOptions(max_spans=1 << 14)
PER_TOKEN = tiny_table(per_prompt_token_ms=1.0, decode_ms=1.0)


def rows(timeline) -> list[tuple]:
    """Every span as (stage, doing, start, end, steps, prompt tokens, decodes)."""
    columns = (
        timeline.stage,
        timeline.doing,
        timeline.start_ms,
        timeline.end_ms,
        timeline.num_steps,
        timeline.num_prompt_tokens,
        timeline.num_decodes,
    )
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_spans_are_steps_and_runs_of_steps():
    """r0 (2 tokens) to 2, r1 (3, at 0.5) beside its decode to 6, two runs of both."""
    both = tiny_replica(Phase.AGGREGATED, PER_TOKEN, policy=Batching.CHUNKED)
    requests = tiny_requests((0.0, 2, 5), (0.5, 3, 3))
    timeline = simulate(tiny_system(both), requests, options=WITH_SPANS).timeline
    assert timeline is not None
    assert rows(timeline) == [
        (0, PREFILL, 0.0, 2.0, 1, 2, 0),
        (0, MIXED, 2.0, 6.0, 1, 3, 1),
        (0, DECODE, 6.0, 8.0, 2, 0, 2),
        (0, DECODE, 8.0, 9.0, 1, 0, 1),
    ]


def test_no_more_spans_are_kept_than_asked_for():
    both = tiny_replica(Phase.AGGREGATED, PER_TOKEN)
    options = SimulationOptions(max_spans=1)
    timeline = simulate(
        tiny_system(both), tiny_requests((0.0, 2, 5)), options=options
    ).timeline
    assert timeline is not None
    assert (timeline.num_spans, timeline.num_left_out) == (1, 1)
    assert simulate(tiny_system(both), tiny_requests((0.0, 2, 5))).timeline is None


def test_uneven_stages_leave_bubbles():
    """Two prompts one after the other, 1 ms on stage 0 and 3 ms on stage 1: 7 ms.

    Stage 0 works 2 ms and stage 1 6 ms of them, so (5 + 1) / 2 are idle on average.
    A third prompt comes at 8: 4 ms with 3 and 1 idle; nothing works from 7 to 8.
    """
    stages = (tiny_table(prefill_ms=1.0), tiny_table(prefill_ms=3.0))
    prefill = tiny_replica(Phase.PREFILL, *stages, max_num_seqs=1)
    requests = tiny_requests((0.0, 1, 1), (0.0, 1, 1), (8.0, 1, 1))
    stats = simulate(tiny_system(prefill), requests).replicas[0]
    assert stats.active_frac == pytest.approx(11 / 12)
    assert stats.prefill_busy_frac == pytest.approx((3 + 9) / 2 / 12)
    assert stats.bubble_frac == pytest.approx((3 + 2) / 12)


@given(any_system(), many_requests())
@settings(max_examples=60, deadline=None)
def test_spans_of_a_stage_do_not_overlap_and_add_up(system, requests):
    result = simulate(system, requests, options=WITH_SPANS)
    timeline = result.timeline
    assert timeline is not None
    assert timeline.num_left_out == 0
    durations = timeline.end_ms - timeline.start_ms
    assert (durations >= 0.0).all()
    for index, (replica, stats) in enumerate(
        zip(system.replicas, result.replicas, strict=True)
    ):
        assert stats.active_frac <= 1.0 + 1e-9
        busy = stats.prefill_busy_frac + stats.decode_busy_frac + stats.mixed_busy_frac
        assert stats.bubble_frac == pytest.approx(stats.active_frac - busy, abs=1e-9)
        if len(replica.stages) == 1:
            assert stats.bubble_frac == pytest.approx(0.0, abs=1e-9)
        mine = timeline.replica == index
        spent = durations[mine].sum() / len(replica.stages)
        assert spent == pytest.approx(busy * result.end_ms, abs=1e-6)
        for stage in range(len(replica.stages)):
            here = mine & (timeline.stage == stage)
            starts, ends = timeline.start_ms[here], timeline.end_ms[here]
            assert (starts[1:] >= ends[:-1] - 1e-9).all()
        last = mine & (timeline.stage == len(replica.stages) - 1)
        tokens = timeline.num_prompt_tokens[last].sum()
        assert tokens == stats.num_prefill_tokens
        decodes = (timeline.num_decodes * timeline.num_steps)[last].sum()
        assert decodes == stats.num_decode_tokens


def test_the_trace_is_what_perfetto_reads():
    """One request through a prefill and a decode replica, with a transfer of 2 ms."""
    system = tiny_system(
        tiny_replica(Phase.PREFILL, PER_TOKEN),
        tiny_replica(Phase.DECODE, PER_TOKEN),
        routes=(KvRoute(source=0, target=1, latency_ms=2.0, ms_per_byte=0.0),),
    )
    result = simulate(system, tiny_requests((0.0, 4, 3)), options=WITH_SPANS)
    content = json.loads(chrome_trace(result, ["prefill-0", "decode-0"]))
    events = content["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {0: "prefill-0", 1: "decode-0", 2: "requests"}
    spans = [(e["pid"], e["name"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"]
    assert spans == [(0, "prefill", 0.0, 4000.0), (1, "decode x2", 6000.0, 2000.0)]
    lives = [(e["name"], e["ph"], e["ts"]) for e in events if e["ph"] in "be"]
    assert lives == [
        ("prefill", "b", 0.0),
        ("prefill", "e", 4000.0),
        ("KV transfer", "b", 4000.0),
        ("KV transfer", "e", 6000.0),
        ("decode", "b", 6000.0),
        ("decode", "e", 8000.0),
    ]
    assert any(e["ph"] == "C" and e["args"]["share"] > 0 for e in events)
    assert content["otherData"] == {"spans_left_out": 0}


def test_a_result_without_a_timeline_has_no_trace():
    result = simulate(
        tiny_system(tiny_replica(Phase.PREFILL, PER_TOKEN)), tiny_requests((0.0, 1, 1))
    )
    with pytest.raises(ValueError, match="max_spans"):
        chrome_trace(result)


def test_requests_after_the_last_span_kept_are_left_out():
    prefill = tiny_replica(Phase.PREFILL, PER_TOKEN)
    requests = tiny_requests((0.0, 1, 1), (100.0, 1, 1))
    options = SimulationOptions(max_spans=1)
    result = simulate(tiny_system(prefill), requests, options=options)
    events = json.loads(chrome_trace(result))["traceEvents"]
    assert {e["id"] for e in events if e["ph"] == "b"} == {0}
    assert np.isfinite([e["ts"] for e in events if "ts" in e]).all()
