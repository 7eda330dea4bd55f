"""Measured links: rates and latencies between hosts, in the form of a cluster file.

Idea
    A message of m bytes takes a + m / b: the latency a shows in small messages, the
    rate b in large ones. Rates that differ by less than noise are made equal, so that
    nobody routes around a link that was measured a little slower.

Steps
    1. For every two hosts: a and b by non-negative least squares of relative errors.
    2. Rates within `_ALIKE` of each other become their median.
    3. One link for every two hosts. More than two hosts make a ring of links, which a
       cluster file allows when it says so; traffic takes the widest, then the shortest
       way, which is the link that was measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy.optimize import nnls

from clusters.cluster import Cluster
from clusters.fabric import Fabric, FabricLink
from clusters.fields import InputError, check_fields, spec
from clusters.units import GB, MS_PER_S
from models.profile_records import LinkRecord

_ALIKE = 1.1
"""Rates up to this factor above the least of them are one rate."""
_FEWEST_SIZES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLink:
    """Rate and latency between two hosts."""

    hosts: tuple[str, str] = spec("Names of the two.")
    bytes_per_s: float = spec(
        "Rate in one direction, all pairs together.", unit="bytes/s", gt=0
    )
    latency_ms: float = spec("Time of an empty message.", unit="ms", ge=0)
    error_frac: float = spec("Largest error over the sizes measured.", unit="1", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def fitted(cls, hosts: tuple[str, str], records: Sequence[LinkRecord]) -> Self:
        """Latency and rate of the messages between two hosts.

        Raises
        ------
        InputError
            With one message size only, or times that do not grow with the size.
        """
        sizes = np.array([float(r.total_bytes) for r in records])
        times = np.array([r.spread.ms for r in records])
        if len(set(sizes.tolist())) < _FEWEST_SIZES:
            raise InputError("message_bytes", sizes.tolist(), "two sizes or more")
        scale = float(sizes.max())
        columns = np.column_stack([np.ones_like(sizes), sizes / scale])
        # 1. Relative errors: small messages count as much as large ones.
        (latency_ms, whole_ms), _ = nnls(columns / times[:, None], np.ones_like(times))
        if whole_ms <= 0.0:
            form = "times that grow with the message"
            raise InputError("spread.ms", times.tolist(), form)
        predicted = columns @ np.array([latency_ms, whole_ms])
        return cls(
            hosts=hosts,
            bytes_per_s=scale / float(whole_ms) * MS_PER_S,
            latency_ms=float(latency_ms),
            error_frac=float(np.abs(predicted / times - 1.0).max()),
        )


def fit_links(records: Sequence[LinkRecord]) -> tuple[MeasuredLink, ...]:
    """The link between every two hosts that were measured, in order of appearance.

    Raises
    ------
    InputError
        Without any, or where a pair of hosts does not give a link.
    """
    if not records:
        form = "records of links (measured with --links, on two hosts or more)"
        raise InputError("records", "none", form)
    groups: dict[tuple[str, str], list[LinkRecord]] = {}
    for record in records:
        first, second = sorted(record.hosts)
        groups.setdefault((first, second), []).append(record)
    found = []
    for hosts, of_pair in groups.items():
        try:
            found.append(MeasuredLink.fitted(hosts, of_pair))
        except InputError as error:
            raise error.within(" and ".join(hosts)) from None
    return tuple(found)


def alike(links: Sequence[MeasuredLink]) -> tuple[MeasuredLink, ...]:
    """The links with rates that differ by noise alone made equal."""
    ordered = sorted(links, key=lambda link: link.bytes_per_s)
    classes: list[list[MeasuredLink]] = []
    for link in ordered:
        if classes and link.bytes_per_s <= _ALIKE * classes[-1][0].bytes_per_s:
            classes[-1].append(link)
        else:
            classes.append([link])
    rate_of = {
        link.hosts: float(np.median([each.bytes_per_s for each in members]))
        for members in classes
        for link in members
    }
    return tuple(replace(link, bytes_per_s=rate_of[link.hosts]) for link in links)


def fabric_of(links: Sequence[MeasuredLink], names: Mapping[str, str]) -> Fabric:
    """The links as the fabric of a cluster file.

    Parameters
    ----------
    links
        A link for every two hosts.
    names
        Name of each host in the cluster file; hosts keep theirs where it is missing.
    """
    # 2., 3.
    return Fabric(
        links=tuple(
            FabricLink(
                between=(names.get(a, a), names.get(b, b)),
                bytes_per_s=link.bytes_per_s,
                latency_ms=link.latency_ms,
            )
            for link in alike(links)
            for a, b in [link.hosts]
        ),
        allow_cycles=len(links) > 1,
    )


def with_measured_links(cluster: Cluster, fabric: Fabric) -> Cluster:
    """The cluster with these links as its network.

    What a node's NICs add to the latency was measured too, so it is taken off.

    Raises
    ------
    InputError
        When a link names neither a rack nor a node without one, or the links do not
        join all of them.
    """
    instant = tuple(replace(link, latency_ms=0.0) for link in fabric.links)
    bare = replace(cluster, fabric=replace(fabric, links=instant))
    bare.validate()
    gpus = _gpus_of_leaves(bare)
    links = []
    for link in fabric.links:
        a, b = (gpus[name][0] for name in link.between)
        own_ms = bare.topology.path(a, b).latency_ms
        links.append(replace(link, latency_ms=max(0.0, link.latency_ms - own_ms)))
    return replace(bare, fabric=replace(fabric, links=tuple(links)))


def narrower_nodes(cluster: Cluster) -> tuple[str, ...]:
    """A line for each link that the NICs of its nodes, as the file has them, limit."""
    gpus, lines = _gpus_of_leaves(cluster), []
    for link in cluster.fabric.links:
        a, b = (gpus[name] for name in link.between)
        rate = cluster.topology.route(a, b).bytes_per_s
        if rate < link.bytes_per_s / _ALIKE:
            lines.append(
                f"{link.between[0]} and {link.between[1]}: measured "
                f"{link.bytes_per_s / GB:.3g} GB/s, but the NICs and PCIe links that "
                f"the file gives them carry {rate / GB:.3g} GB/s"
            )
    return tuple(lines)


def _gpus_of_leaves(cluster: Cluster) -> dict[str, tuple[int, ...]]:
    """GPUs of the first node of each rack, and of each node without one."""
    found: dict[str, tuple[int, ...]] = {}
    for index, node in enumerate(cluster.nodes):
        found.setdefault(cluster.leaf_of(node), cluster.topology.gpus_of_node(index))
    return found
