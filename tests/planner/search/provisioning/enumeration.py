"""Every way to put replicas on hosts, and the KV flow of each."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product

from planner.search.provisioning.columns import Column
from planner.search.provisioning.program import ProgramData
from planner.simulator.system import Phase

Flows = tuple[float, float]
"""Of hosts, added up: prefills that get to some decode, decodes that get some prefill.

The maximum flow over hosts joined at one switch is the lesser of both sums.
"""


def flow_of(made: float, taken: float, nic: float) -> Flows:
    """The same of one host, with NICs for as many requests each way.

    What it prefills is decoded there or leaves it: these are the two cuts of the flow,
    with the switch on either side.
    """
    return min(made, taken + nic), min(taken, made + nic)


def best_rate(data: ProgramData, counts: Sequence[int]) -> float | None:
    """The most that so many replicas of each column serve; None: they do not fit."""
    if data.of(Phase.AGGREGATED):
        packed = all(
            _of_class(data, k, counts, nic=math.inf) for k in range(len(data.classes))
        )
        pairs = zip(data.columns, counts, strict=True)
        return sum(c.rate_rps * n for c, n in pairs) if packed else None
    found: set[Flows] = {(0.0, 0.0)}
    for index, hosts in enumerate(data.classes):
        nic = data.network.requests_per_s(hosts.nic_bytes_per_s)
        own = _of_class(data, index, counts, nic=math.inf if nic is None else nic)
        found = {(a + c, b + d) for (a, b), (c, d) in product(found, own)}
    return max((min(pair) for pair in found), default=None)


def _of_class(
    data: ProgramData, index: int, counts: Sequence[int], *, nic: float
) -> frozenset[Flows]:
    """Flows of all placements on a class, without those that others dominate."""
    used = [
        (column, count)
        for column, count in zip(data.columns, counts, strict=True)
        if column.host_class == index and count
    ]
    columns = tuple(column for column, _ in used)
    groups = tuple(column.num_groups * count for column, count in used)
    hosts = data.classes[index]
    return _placed(columns, groups, hosts.num_hosts, hosts.num_gpus, nic)


@lru_cache(maxsize=100_000)
def _placed(
    columns: tuple[Column, ...],
    groups: tuple[int, ...],
    num_hosts: int,
    num_gpus: int,
    nic: float,
) -> frozenset[Flows]:
    """The same for some hosts and the groups left for them."""
    if num_hosts == 0:
        return frozenset() if any(groups) else frozenset({(0.0, 0.0)})
    found = set()
    for filling in _fillings(columns, groups, num_gpus):
        left = tuple(n - m for n, m in zip(groups, filling, strict=True))
        here = {Phase.PREFILL: 0.0, Phase.DECODE: 0.0, Phase.AGGREGATED: 0.0}
        for column, number in zip(columns, filling, strict=True):
            part = column.rate_rps / column.num_groups
            here[column.shape.phase] += part * number
        made, taken = here[Phase.PREFILL], here[Phase.DECODE]
        own = flow_of(made, taken, nic)
        for other in _placed(columns, left, num_hosts - 1, num_gpus, nic):
            found.add((own[0] + other[0], own[1] + other[1]))
    return frozenset(
        pair
        for pair in found
        if not any(
            other != pair and other[0] >= pair[0] and other[1] >= pair[1]
            for other in found
        )
    )


def _fillings(
    columns: Sequence[Column], groups: Sequence[int], room: int
) -> Iterator[tuple[int, ...]]:
    """Every part of the groups that fits a host."""
    if not columns:
        yield ()
        return
    width = columns[0].width
    for number in range(min(groups[0], room // width) + 1):
        for rest in _fillings(columns[1:], groups[1:], room - number * width):
            yield (number, *rest)
