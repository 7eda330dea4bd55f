"""Schedules of events from outside: what is refused, and files."""

from dataclasses import replace
from pathlib import Path

import pytest

from clusters.fields import InputError
from planner.simulator.outside_schedule import (
    OutsideEvent,
    OutsideKind,
    OutsideSchedule,
    check_outside,
)
from planner.simulator.system import Phase, Routing
from tests.planner.simulator.systems import tiny_replica, tiny_system, tiny_table

TABLE = tiny_table(prefill_ms=4.0, decode_ms=1.0)
SPLIT = tiny_system(
    tiny_replica(Phase.PREFILL, TABLE), tiny_replica(Phase.DECODE, TABLE)
)
BOTH = tiny_system(tiny_replica(Phase.AGGREGATED, TABLE))


def event(at_ms: float, kind: str, replica: int = 0, takes_ms: float = 0.0):
    return OutsideEvent(
        at_ms=at_ms, kind=OutsideKind(kind), replica=replica, takes_ms=takes_ms
    )


def refused(system, *events) -> str:
    with pytest.raises(InputError) as error:
        check_outside(system, events)
    return str(error.value)


def test_events_must_follow_from_each_other():
    assert "recover before it" in refused(BOTH, event(1, "fail"), event(2, "drain"))
    assert "after fail or drain" in refused(BOTH, event(1, "recover"))
    twice = refused(BOTH, event(1, "fail"), event(2, "fail"))
    assert twice.startswith("events[1].kind = 'fail'")
    assert "first event" in refused(
        BOTH, event(1, "fail"), event(2, "recover"), event(3, "scale_up")
    )
    assert "one event a replica" in refused(BOTH, event(1, "fail"), event(1, "recover"))
    check_outside(BOTH, [event(1, "drain"), event(2, "fail"), event(3, "recover")])


def test_given_in_any_order_they_are_taken_by_time():
    check_outside(BOTH, [event(2, "recover"), event(1, "fail")])
    early = refused(BOTH, event(1, "recover"), event(0, "drain"), event(2, "recover"))
    assert early.startswith("events[2]")  # named by their place in the schedule


def test_replicas_must_exist_and_be_able_to():
    assert "0 to 1" in refused(SPLIT, event(1, "fail", replica=2))
    assert "prefill and decode replicas" in refused(BOTH, event(1, "flip"))
    assert "1->0 missing" in refused(SPLIT, event(1, "flip"), event(1, "flip", 1))
    pools = replace(SPLIT, routing=Routing.SPLITWISE)
    assert "1->0 missing" in refused(pools, event(1, "flip"))
    alone = tiny_system(tiny_replica(Phase.DECODE, TABLE))
    assert "without prefill" in refused(alone, event(1, "fail"))


@pytest.mark.parametrize("kind", ["fail", "drain"])
def test_what_takes_no_time_has_none(kind):
    with pytest.raises(InputError, match="takes_ms = 2"):
        event(1.0, kind, takes_ms=2.0)


def test_a_file_names_replicas_and_has_seconds(tmp_path: Path):
    path = tmp_path / "events.yaml"
    path.write_text(
        "events:\n"
        "  - {at_s: 60, kind: recover, replica: decode-0, takes_s: 1.5}\n"
        "  - {at_s: 30, kind: fail, replica: decode-0}\n"
    )
    events = OutsideSchedule.load(path).of(["prefill-0", "decode-0"])
    assert events == (
        event(60e3, "recover", 1, 1500.0),
        event(30e3, "fail", 1),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("events: [{at_s: 1, kind: fial, replica: a}]", "fail"),
        ("events: [{at_s: -1, kind: fail, replica: a}]", "events[0].at_s = -1"),
        ("events: [{at_s: .nan, kind: fail, replica: a}]", "events[0].at_s = nan"),
        ("events: [{at_ms: 1, kind: fail, replica: a}]", "at_s"),
        ("events: [{at_s: 1, kind: fail, replica: a, takes_s: 3}]", "0 for fail"),
        ("happens: []", "events"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, text: str, words: str):
    path = tmp_path / "events.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        OutsideSchedule.load(path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_replica_is_refused_with_the_nearest(tmp_path: Path):
    path = tmp_path / "events.yaml"
    path.write_text("events: [{at_s: 1, kind: fail, replica: decode-1}]")
    with pytest.raises(InputError, match="nearest is 'decode-0'"):
        OutsideSchedule.load(path).of(["prefill-0", "decode-0"])
