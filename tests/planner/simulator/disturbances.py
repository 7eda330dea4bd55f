"""Systems under events from outside, and what to expect of any of them."""

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from planner.simulator.build import SimulationOptions
from planner.simulator.outside_schedule import (
    OutsideEvent,
    OutsideKind,
    switch_pairs,
)
from planner.simulator.simulate import simulate
from planner.simulator.system import Batching, KvRoute, Phase, Routing
from tests.planner.simulator.systems import (
    PLAIN_ROUTINGS,
    eighths,
    systems,
    tiny_replica,
    tiny_table,
)

FAIL, RECOVER, DRAIN, FLIP, SCALE_UP = (
    OutsideKind.FAIL,
    OutsideKind.RECOVER,
    OutsideKind.DRAIN,
    OutsideKind.FLIP,
    OutsideKind.SCALE_UP,
)
TABLE = tiny_table(prefill_ms=4.0, decode_ms=1.0)
BOTH = tiny_replica(Phase.AGGREGATED, TABLE)
PREFILL = tiny_replica(Phase.PREFILL, TABLE)
DECODE = tiny_replica(Phase.DECODE, TABLE)
IN_TURN = Routing.ROUND_ROBIN
POLICIES = tuple(Batching)


def event(at_ms, kind, replica, takes_ms=0.0) -> OutsideEvent:
    return OutsideEvent(at_ms=at_ms, kind=kind, replica=replica, takes_ms=takes_ms)


def serve(system, requests, *events, **options):
    return simulate(
        system, requests, options=SimulationOptions(events=events, **options)
    )


def link(source: int, target: int, ms: float = 0.0) -> KvRoute:
    return KvRoute(source=source, target=target, latency_ms=ms, ms_per_byte=0.0)


@st.composite
def schedules(draw, system, *, flips=True) -> tuple[OutsideEvent, ...]:
    """For some replicas, events that follow from each other; the last one serves."""
    is_split = flips and len({replica.phase for replica in system.replicas}) > 1
    events = []
    for replica in range(len(system.replicas)):
        at_ms, is_up = draw(eighths(80)), True
        if draw(st.integers(0, 3)) == 0:
            events.append(event(at_ms, SCALE_UP, replica, draw(eighths(80))))
        for _ in range(draw(st.integers(0, 3))):
            at_ms += draw(eighths(400, least=1))
            kinds = [FAIL, FAIL, DRAIN, *([FLIP] if is_split else [])]
            kind = draw(st.sampled_from(kinds)) if is_up else RECOVER
            takes_ms = draw(eighths(80)) if kind in (FLIP, RECOVER) else 0.0
            events.append(event(at_ms, kind, replica, takes_ms))
            is_up = kind in (FLIP, RECOVER)
        if not is_up:
            events.append(event(at_ms + draw(eighths(400, least=1)), RECOVER, replica))
    return tuple(draw(st.permutations(events)))


@st.composite
def disturbed(draw, *, policies=POLICIES, is_capped=False, routings=PLAIN_ROUTINGS):
    """A system with routes between any two replicas of a slice, and its schedule."""
    shapes = ("both", "disaggregated", "disaggregated", "prefill")
    if policies == (Batching.REQUEST_LEVEL,):
        shapes = ("both",)
    if routings == (Routing.SPLITWISE,):
        shapes = ("disaggregated",)
    system = draw(
        systems(
            policies=policies, is_capped=is_capped, shapes=shapes, routings=routings
        )
    )
    phases = [replica.phase for replica in system.replicas]
    slices = [replica.slice for replica in system.replicas]
    pairs = ()
    if len(set(phases)) > 1:
        everyone = frozenset(range(len(phases)))
        pairs = switch_pairs(phases, slices, everyone, system.routing)
    routes = tuple(link(source, target, draw(eighths(8))) for source, target in pairs)
    system = replace(system, switch_routes=routes)
    return system, draw(schedules(system))


def down_intervals(system, events) -> list[tuple[int, float, float]]:
    """(replica, from, to) in which a replica has failed or is not there yet."""
    found = []
    for replica in range(len(system.replicas)):
        mine = sorted(
            (e for e in events if e.replica == replica), key=lambda e: e.at_ms
        )
        # Loading ends with the next event at the latest: it has its own interval.
        times = [each.at_ms for each in mine] + [np.inf, np.inf]
        for number, each in enumerate(mine):
            if each.kind is FAIL:
                back = mine[number + 1] if number + 1 < len(mine) else None
                until = back.at_ms + back.takes_ms if back else np.inf
                found.append((replica, each.at_ms, min(until, times[number + 2])))
            if each.kind is SCALE_UP:
                until = min(each.at_ms + each.takes_ms, times[number + 1])
                found.append((replica, 0.0, until))
    return found
