"""Ring bandwidth: the rate at which a collective moves data around a set of GPUs.

Reference
    P. Patarasuk, X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
    workstations", JPDC 2009 (the ring); NCCL's use of one ring a NIC and of all direct
    links at once, as its topology search does.

Idea
    In a ring every GPU sends to the next one all the time, so the slowest step is the
    rate. Libraries run several rings at once: they fill all links of a GPU, and all
    NICs of a node. The rate here is that of all rings together, i.e. what one GPU sends
    on, in one direction; an all-reduce of S bytes over n GPUs takes
    2(n-1)/n * S / rate.

Steps
    1. Group the GPUs by node (or by NVLink domain that spans nodes).
    2. Within a group: over an NVSwitch the slowest GPU's NVLink rate; over direct links
       that join all of them the least that any one has towards the others; otherwise
       the slowest step of a ring whose steps share the PCIe links fairly.
    3. Between groups: the NICs next to the members of a group, together, no more
       than these members can feed them; and the slowest step on the leaf and spine
       links that the ring crosses.
    4. The ring is as fast as the slowest of these.

Differences from the paper
    - rates only; the latency is that of the slowest single step

Assumes   GPUs that some way joins
Cost      linear in the GPUs, but for sharing PCIe links (one `max_min_rates`)
Guarantee an upper bound; measured collectives reach 50-90 % of it
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from clusters.contention import max_min_rates
from clusters.links import GroupLink, LinkKind

if TYPE_CHECKING:
    from clusters.topology import Topology


def ring_of(topology: "Topology", gpus: Sequence[int]) -> GroupLink:
    """The ring over `gpus` (different, in rising order)."""
    if len(gpus) == 1:
        rate = topology.path(gpus[0], gpus[0]).bytes_per_s
        return GroupLink(bytes_per_s=rate, latency_ms=0.0, kind=LinkKind.LOCAL)
    # 1. Groups that need no network within.
    groups = _groups(topology, gpus)
    inner = [_inner_ring(topology, group) for group in groups if len(group) > 1]
    if len(groups) == 1:
        return inner[0]
    # 3. Between groups, in rack order, so that every rack is entered once.
    groups.sort(
        key=lambda group: (topology.ways.leaf_of(topology.gpu(group[0])), group)
    )
    steps = [
        topology.path(group[-1], following[0])
        for group, following in pairwise([*groups, groups[0]])
    ]
    rates = [_network_rate(topology, group) for group in groups]
    rates.append(_fabric_rate(topology, groups))
    # 4. The slowest of all.
    return GroupLink(
        bytes_per_s=min([*rates, *(link.bytes_per_s for link in inner)]),
        latency_ms=max(
            *(step.latency_ms for step in steps),
            *(link.latency_ms for link in inner),
        ),
        kind=LinkKind.NETWORK,
        sharers=max(len(group) for group in groups),
    )


def _groups(topology: "Topology", gpus: Sequence[int]) -> list[list[int]]:
    groups: dict[object, list[int]] = {}
    for gpu in gpus:
        groups.setdefault(topology.domain_of(gpu), []).append(gpu)
    return list(groups.values())


def _inner_ring(topology: "Topology", gpus: list[int]) -> GroupLink:
    """The ring over GPUs of one node or NVLink domain."""
    # 2. NVLink where it joins all of them, otherwise PCIe.
    peers = {gpu: topology.nvlink_peers(gpu) for gpu in gpus}
    steps = [topology.path(a, b) for a, b in pairwise([*gpus, gpus[0]])]
    if all(found is None for found in peers.values()):
        rate = min(step.bytes_per_s for step in steps)
        latency_ms = max(step.latency_ms for step in steps)
        return GroupLink(bytes_per_s=rate, latency_ms=latency_ms, kind=LinkKind.NVLINK)
    within = {gpu: (peers[gpu] or frozenset()) & set(gpus) for gpu in gpus}
    if _joins_all(within):
        ways = [[topology.path(a, b) for b in sorted(within[a])] for a in gpus]
        return GroupLink(
            bytes_per_s=min(sum(way.bytes_per_s for way in each) for each in ways),
            latency_ms=max(way.latency_ms for each in ways for way in each),
            kind=LinkKind.NVLINK,
        )
    rates = max_min_rates([step.edges for step in steps], topology.capacity_bytes_per_s)
    return GroupLink(
        bytes_per_s=float(rates.min()),
        latency_ms=max(step.latency_ms for step in steps),
        kind=LinkKind.PCIE,
    )


def _joins_all(within: dict[int, frozenset[int]]) -> bool:
    """Whether direct links join all GPUs, each of them through at least one."""
    start = next(iter(within))
    reached, frontier = {start}, [start]
    while frontier:
        for peer in within[frontier.pop()] - reached:
            reached.add(peer)
            frontier.append(peer)
    return len(reached) == len(within)


def _network_rate(topology: "Topology", gpus: list[int]) -> float:
    """Rate at which the GPUs of a group can send into the network, together."""
    capacity: dict[int, float] = {}
    feed: dict[int, float] = {}
    for gpu in gpus:
        *inner, into_nic, out_of_nic = topology.ways.to_leaf(topology.gpu(gpu))
        rates = topology.capacity_bytes_per_s
        capacity[into_nic] = min(float(rates[into_nic]), float(rates[out_of_nic]))
        fed = float(rates[inner].min())
        feed[into_nic] = feed.get(into_nic, 0.0) + fed
    return sum(min(capacity[nic], feed[nic]) for nic in capacity)


def _fabric_rate(topology: "Topology", groups: list[list[int]]) -> float:
    """Slowest step of a ring over the leaf switches of the groups."""
    ways = topology.ways
    leaves = [ways.leaf_of(topology.gpu(group[0])) for group in groups]
    steps = [ways.between_leaves(a, b) for a, b in pairwise([*leaves, leaves[0]])]
    return float(max_min_rates(steps, topology.capacity_bytes_per_s).min())
