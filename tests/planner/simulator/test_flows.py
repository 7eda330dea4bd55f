"""Fair sharing of links, by hand and against a fluid model in exact fractions."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.simulator.simulate import simulate
from planner.simulator.system import EdgeShare, KvRoute, Phase, Routing
from planner.simulator.transfer_settings import (
    KvTransfer,
    LinkSharing,
    TransferMode,
)
from tests.planner.simulator.systems import (
    eighths,
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)

FAIR = KvTransfer(sharing=LinkSharing.FAIR)
INSTANT = tiny_table()


def network(*routes: tuple[float, dict[str, float]], **changes):
    """Route i from prefill replica i to decode replica i, a slice each, in turn.

    A route is the time of a byte on it alone, and on its links. Prompts take no time.
    """
    num = len(routes)
    pairs = [
        KvRoute(
            source=index,
            target=num + index,
            latency_ms=0.0,
            ms_per_byte=alone,
            edges=tuple(
                EdgeShare(edge=name, ms_per_byte=each)
                for name, each in sorted(links.items())
            ),
        )
        for index, (alone, links) in enumerate(routes)
    ]
    given = {"kv_transfer": FAIR, "routing": Routing.ROUND_ROBIN, **changes}
    return tiny_system(
        *[tiny_replica(Phase.PREFILL, INSTANT, slice=i) for i in range(num)],
        *[tiny_replica(Phase.DECODE, INSTANT, slice=i) for i in range(num)],
        routes=tuple(pairs),
        **given,
    )


def ready_ms(system, *rows) -> list[float]:
    """When the KV caches are there; rows are (arrival_ms, bytes)."""
    requests = tiny_requests(*((at, size, 2) for at, size in rows))
    return simulate(system, requests).decode_ready_ms.tolist()


def test_two_transfers_on_one_link_take_half_each():
    # 10 bytes each at 1 byte/ms: both until 20; first come first served 10 and 20.
    system = network((1.0, {"nic": 1.0}), (1.0, {"nic": 1.0}))
    assert ready_ms(system, (0.0, 10), (0.0, 10)) == [20.0, 20.0]
    in_turn = replace(system, kv_transfer=KvTransfer())
    assert ready_ms(in_turn, (0.0, 10), (0.0, 10)) == [10.0, 20.0]


def test_who_comes_later_takes_half_of_what_is_left():
    # Alone until 4, then half: 6 bytes left take 12, until 16; then alone again.
    system = network((1.0, {"nic": 1.0}), (1.0, {"nic": 1.0}))
    assert ready_ms(system, (0.0, 10), (4.0, 10)) == [16.0, 20.0]


def test_what_one_cannot_use_the_others_get():
    """Max-min: the first has 1/4 byte/ms on its own link, the second the other 3/4."""
    system = network((1.0, {"own": 4.0, "nic": 1.0}), (1.0, {"nic": 1.0}))
    assert ready_ms(system, (0.0, 3), (0.0, 9)) == [12.0, 12.0]


def test_a_transfer_spread_over_links_takes_a_share_of_each():
    # Half of the bytes cross each link: two at a time fill both, 1 byte/ms each.
    system = network((0.5, {"a": 0.5, "b": 0.5}), (0.5, {"a": 0.5, "b": 0.5}))
    assert ready_ms(system, (0.0, 10), (0.0, 10)) == [10.0, 10.0]


def test_a_stream_shares_its_link_while_it_is_prefilled():
    """Prompts of 8 ms and 8 bytes on one link: together 16 ms, from 0 on.

    Four layers: the first is there at 2, which is added. Alone a stream ends at
    8 + 8/4 = 10, the last layer after the prefill.
    """
    table = tiny_table(prefill_ms=8.0)
    stream = KvTransfer(
        mode=TransferMode.LAYER_WISE, layer_wise_ms=0.0, sharing=LinkSharing.FAIR
    )
    edges = (EdgeShare(edge="nic", ms_per_byte=1.0),)
    system = tiny_system(
        tiny_replica(Phase.PREFILL, table),
        tiny_replica(Phase.DECODE, INSTANT),
        routes=(
            KvRoute(source=0, target=1, latency_ms=0.0, ms_per_byte=1.0, edges=edges),
        ),
        kv_transfer=stream,
        num_layers=4,
    )
    assert ready_ms(system, (0.0, 8), (0.0, 8)) == [18.0, 18.0]
    assert ready_ms(system, (0.0, 8)) == [10.0]


def fair_rates(routes: list, flows: list[int]) -> list[Fraction]:
    """Max-min fair rates by raising all of them together, in exact fractions."""
    rates: list[Fraction | None] = [None] * len(flows)
    while None in rates:
        limits = []
        for number, flow in enumerate(flows):
            if rates[number] is not None:
                continue
            alone, links = routes[flow]
            limit = 1 / Fraction(alone)
            for name, each in links.items():
                used = sum(
                    Fraction(routes[f][1].get(name, 0)) * r
                    for f, r in zip(flows, rates, strict=True)
                    if r is not None
                )
                wanted = sum(
                    Fraction(routes[f][1].get(name, 0))
                    for f, r in zip(flows, rates, strict=True)
                    if r is None
                )
                if each > 0:
                    limit = min(limit, (1 - used) / wanted)
            limits.append((limit, number))
        least = min(limits)[0]
        for limit, number in limits:
            if limit == least:
                rates[number] = least
    return [rate for rate in rates if rate is not None]


def fluid_ends(routes: list, starts: list) -> list[float]:
    """Ends of transfers (start, route, bytes) that share links at fair rates.

    Asserts on the way that no link carries more than it can, and that every flow has a
    full link on which nobody is faster, or the rate of its route.
    """
    left = {i: Fraction(size) for i, (_, _, size) in enumerate(starts)}
    ends: dict[int, Fraction] = {}
    now = Fraction(0)
    while left:
        active = [i for i in left if Fraction(starts[i][0]) <= now]
        flows = [starts[i][1] for i in active]
        rates = fair_rates(routes, flows)
        load = {
            name: sum(
                Fraction(routes[f][1].get(name, 0)) * r
                for f, r in zip(flows, rates, strict=True)
            )
            for flow in flows
            for name in routes[flow][1]
        }
        assert all(each <= 1 for each in load.values())
        for flow, rate in zip(flows, rates, strict=True):
            crossing = {
                name: [
                    r
                    for f, r in zip(flows, rates, strict=True)
                    if routes[f][1].get(name, 0) > 0
                ]
                for name, each in routes[flow][1].items()
                if each > 0
            }
            assert rate * Fraction(routes[flow][0]) == 1 or any(
                load[name] == 1 and rate == max(others)
                for name, others in crossing.items()
            )
        coming = [Fraction(s) for s, _, _ in starts if Fraction(s) > now]
        done = [now + left[i] / r for i, r in zip(active, rates, strict=True)]
        upcoming = min(coming + done)
        for i, rate in zip(active, rates, strict=True):
            left[i] -= rate * (upcoming - now)
            if left[i] == 0:
                ends[i] = upcoming
                del left[i]
        now = upcoming
    return [float(ends[i]) for i in range(len(starts))]


@st.composite
def links_and_routes(draw):
    """Up to five routes over up to four links, each as slow as its slowest link."""
    routes = []
    for _ in range(draw(st.integers(1, 5))):
        names = draw(st.lists(st.sampled_from("abcd"), unique=True, max_size=3))
        links = {name: draw(eighths(24, least=1)) for name in names}
        alone = max([*links.values(), draw(eighths(24, least=1))])
        routes.append((alone, links))
    return routes


@given(
    links_and_routes(),
    st.lists(st.tuples(eighths(200), st.integers(1, 40)), min_size=1, max_size=15),
)
@settings(max_examples=80, deadline=None)
def test_ends_of_transfers_are_those_of_a_fluid(routes, rows):
    """Arrivals go round the routes in turn; nothing but the links takes time."""
    gaps, sizes = zip(*rows, strict=True)
    arrivals = np.cumsum(gaps).tolist()
    starts = [
        (at, i % len(routes), size)
        for i, (at, size) in enumerate(zip(arrivals, sizes, strict=True))
    ]
    found = ready_ms(network(*routes), *zip(arrivals, sizes, strict=True))
    np.testing.assert_allclose(found, fluid_ends(routes, starts), rtol=1e-9, atol=1e-9)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_a_link_with_something_to_send_is_never_idle(sizes):
    """All at once on one link: the last is there when all bytes have crossed it."""
    system = network(*[(1.0, {"nic": 1.0})] * 3)
    found = ready_ms(system, *((0.0, size) for size in sizes))
    assert max(found) == pytest.approx(sum(sizes))
    in_turn = replace(system, kv_transfer=KvTransfer())
    assert max(ready_ms(in_turn, *((0.0, size) for size in sizes))) == sum(sizes)
