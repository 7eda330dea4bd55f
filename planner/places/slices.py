"""Slices of replicas: which decode replicas take the KV caches of which prefills.

A slice parts the pools, so bursts are evened out less. It is worth that where KV caches
stay on a host, and where each NIC has one other to send to or to take from: transfers
that cross each other's ways wait for each other at both ends.
"""

from collections.abc import Iterator, Sequence

from clusters.topology import Topology
from planner.placement import StageGpus
from planner.simulator.system import Phase


def by_host(topology: Topology, placed: Sequence[StageGpus]) -> list[int]:
    """The slice of every replica; a replica over several hosts joins them in one."""
    domains = [
        {topology.domain_of(gpu) for gpus in stages for gpu in gpus}
        for stages in placed
    ]
    return numbered(_joined(domains))


def matched(
    phases: Sequence[Phase], rates_rps: Sequence[float], hosts: Sequence[int]
) -> Iterator[list[int]]:
    """Slices with about equal shares of both phases: two, and as many as there can be.

    Decode replicas go where prefill lacks them most, to their own host if it does.
    """
    prefills, decodes = (
        sorted(
            (i for i, each in enumerate(phases) if each is phase),
            key=lambda i: (-rates_rps[i], i),
        )
        for phase in (Phase.PREFILL, Phase.DECODE)
    )
    for number in sorted({2, min(len(prefills), len(decodes))}):
        if not 2 <= number <= min(len(prefills), len(decodes)):
            continue
        came, there = [0.0] * number, [set[int]() for _ in range(number)]
        slices = [0] * len(phases)
        for i in prefills:
            least = min(range(number), key=lambda part: (came[part], part))
            slices[i] = least
            came[least] += rates_rps[i]
            there[least].add(hosts[i])
        wanted = [each / max(sum(came), 1e-9) for each in came]
        total = max(sum(rates_rps[j] for j in decodes), 1e-9)
        for j in decodes:
            lacking = min(
                range(number),
                key=lambda part: (
                    -round(wanted[part], 6),
                    hosts[j] not in there[part],
                    part,
                ),
            )
            slices[j] = lacking
            wanted[lacking] -= rates_rps[j] / total
        if len({slices[j] for j in decodes}) == number:
            yield slices


def paired(phases: Sequence[Phase], parts: Sequence[int]) -> list[int]:
    """Indices of the replicas whose part has both phases."""
    found: dict[int, set[Phase]] = {}
    for phase, part in zip(phases, parts, strict=True):
        found.setdefault(part, set()).add(phase)
    return [i for i, part in enumerate(parts) if len(found[part]) > 1]


def numbered(parts: Sequence[int]) -> list[int]:
    """Parts counted from 0 in order of appearance."""
    order = {part: number for number, part in enumerate(dict.fromkeys(parts))}
    return [order[part] for part in parts]


def _joined(sets: Sequence[set[str]]) -> list[int]:
    """Numbers that are equal for sets with members in common, also over others."""
    parts: list[set[str]] = []
    for each in sets:
        touching = [part for part in parts if part & each]
        parts = [part for part in parts if not part & each]
        parts.append(each.union(*touching))
    return [next(i for i, part in enumerate(parts) if each <= part) for each in sets]
