"""Reach: the rate at which KV caches get into or out of a replica's own hosts.

A decode replica takes what is prefilled on the other GPUs of its hosts, and what their
NICs bring; a prefill replica gives the same ways. The programme adds the NICs of a
class up, so a replica alone on a host could seem to have those of all of them.
"""

from collections.abc import Sequence
from dataclasses import replace

from planner.search.provisioning.columns import Column
from planner.search.provisioning.hosts import HostClass
from planner.search.provisioning.network import KvNetwork
from planner.simulator.system import Phase

_OTHER = {Phase.PREFILL: Phase.DECODE, Phase.DECODE: Phase.PREFILL}


def within_reach(
    classes: Sequence[HostClass], columns: Sequence[Column], network: KvNetwork
) -> tuple[Column, ...]:
    """The columns, none with a rate whose KV caches cannot get through.

    At most: what the other GPUs of its hosts can do of the other phase, each as well as
    the best replica there, and what all NICs of its hosts carry.
    """
    best: dict[tuple[int, Phase], float] = {}
    for column in columns:
        key = (column.host_class, column.shape.phase)
        best[key] = max(best.get(key, 0.0), column.rate_rps / column.num_gpus)
    return tuple(
        replace(column, rate_rps=min(column.rate_rps, most))
        if (most := _most_rps(classes[column.host_class], column, network, best))
        is not None
        else column
        for column in columns
    )


def _most_rps(
    hosts: HostClass,
    column: Column,
    network: KvNetwork,
    best: dict[tuple[int, Phase], float],
) -> float | None:
    """Rate at which caches get in or out; None: any rate."""
    other = _OTHER.get(column.shape.phase)
    carried = network.requests_per_s(hosts.nic_bytes_per_s)
    if other is None or carried is None:
        return None
    per_host = hosts.num_gpus // column.width
    num_hosts = -(-column.num_groups // per_host)
    left = num_hosts * hosts.num_gpus - column.num_gpus
    local_rps = left * best.get((column.host_class, other), 0.0)
    return local_rps + num_hosts * carried
