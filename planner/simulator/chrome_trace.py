"""The timeline of a simulation as a Chrome trace, which opens in Perfetto.

A replica is a process, a pipeline stage a thread; a span is a step, or a run of decode
steps of one batch. The lives of the requests are tracks of their own, since they
overlap; KV occupancy is a counter.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from clusters.units import US_PER_MS
from planner.simulator.outcome import SimulationResult
from planner.simulator.state import DECODE, MIXED, PREFILL
from planner.simulator.timeline import Timeline

SPAN_NAMES = {PREFILL: "prefill", DECODE: "decode", MIXED: "mixed"}

Event = dict[str, Any]


def chrome_trace(result: SimulationResult, names: Sequence[str] = ()) -> str:
    """The trace of a result that has a timeline, as JSON text.

    Parameters
    ----------
    result
        Of a simulation with `max_spans` > 0.
    names
        Of the replicas, in order; by default ``replica 0`` and so on.

    Returns
    -------
    str
        In the Chrome trace event format, times in us. Requests and transfers that start
        after the last span are left out.
    """
    timeline = result.timeline
    if timeline is None:
        raise ValueError("a result without a timeline: simulate with max_spans > 0")
    titles = [
        *names,
        *(f"replica {i}" for i in range(len(names), len(result.replicas))),
    ]
    events = [
        *_names(timeline, titles),
        *_spans(timeline),
        *_occupancy(result, timeline),
        *_requests(result, timeline),
    ]
    content = {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"spans_left_out": timeline.num_left_out},
    }
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def _names(timeline: Timeline, titles: Sequence[str]) -> Iterator[Event]:
    for pid, title in enumerate(titles):
        yield {"ph": "M", "pid": pid, "name": "process_name", "args": {"name": title}}
    pairs = zip(timeline.replica.tolist(), timeline.stage.tolist(), strict=True)
    for pid, tid in sorted(set(pairs)):
        args = {"name": f"stage {tid}"}
        yield {"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": args}
    args = {"name": "requests"}
    yield {"ph": "M", "pid": len(titles), "name": "process_name", "args": args}


def _spans(timeline: Timeline) -> Iterator[Event]:
    for i in range(timeline.num_spans):
        doing, steps = SPAN_NAMES[int(timeline.doing[i])], int(timeline.num_steps[i])
        start_ms = float(timeline.start_ms[i])
        yield {
            "ph": "X",
            "pid": int(timeline.replica[i]),
            "tid": int(timeline.stage[i]),
            "name": doing if steps == 1 else f"{doing} x{steps}",
            "cat": doing,
            "ts": start_ms * US_PER_MS,
            "dur": (float(timeline.end_ms[i]) - start_ms) * US_PER_MS,
            "args": {
                "steps": steps,
                "prompt_tokens": int(timeline.num_prompt_tokens[i]),
                "decodes": int(timeline.num_decodes[i]),
            },
        }


def _occupancy(result: SimulationResult, timeline: Timeline) -> Iterator[Event]:
    for pid, stats in enumerate(result.replicas):
        for sample, share in enumerate(stats.kv_curve_frac):
            at_ms = sample * result.sample_ms
            if at_ms > timeline.end_of_last_ms:
                break
            yield {
                "ph": "C",
                "pid": pid,
                "name": "KV blocks in use",
                "ts": at_ms * US_PER_MS,
                "args": {"share": share},
            }


def _requests(result: SimulationResult, timeline: Timeline) -> Iterator[Event]:
    """Waiting, prefill, transfer and decode of every request, one after the other."""
    names = ("waits", "prefill", "KV transfer", "decode")
    times = np.column_stack(
        [
            result.arrival_ms,
            result.prefill_start_ms,
            result.first_token_ms,
            result.decode_ready_ms,
            result.finish_ms,
        ]
    )
    for request in np.flatnonzero(result.arrival_ms <= timeline.end_of_last_ms):
        row = times[request]
        for name, start_ms, end_ms in zip(names, row[:-1], row[1:], strict=True):
            if not end_ms > start_ms:  # nothing to see, or it never happened
                continue
            where = (
                result.decode_replica if name == "decode" else result.prefill_replica
            )
            common = {
                "pid": len(result.replicas),
                "cat": "request",
                "id": int(request),
                "name": name,
            }
            args = {
                "replica": int(where[request]),
                "input_tokens": int(result.input_tokens[request]),
                "output_tokens": int(result.output_tokens[request]),
            }
            yield {**common, "ph": "b", "ts": start_ms * US_PER_MS, "args": args}
            yield {**common, "ph": "e", "ts": end_ms * US_PER_MS}
