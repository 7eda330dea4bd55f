"""Reach: the rate at which KV caches get into or out of a replica's own hosts.

A decode replica takes what is prefilled on the other GPUs of its hosts, and what their
NICs bring; a prefill replica gives the same ways. The programme adds the NICs of a
class up, so a replica alone on a host could seem to have those of all of them.
"""

from collections.abc import Mapping, Sequence
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
    the best replica there, and what all NICs of its hosts carry. Its hosts are as many
    as it has stages, where the class has so many: one each.
    """
    best = _best(columns)
    return tuple(
        replace(column, rate_rps=min(column.rate_rps, most))
        if (most := _most_rps(classes[column.host_class], column, network, best))
        is not None
        else column
        for column in columns
    )


def relied_on(
    classes: Sequence[HostClass],
    columns: Sequence[Column],
    network: KvNetwork,
    column: Column,
) -> Column | None:
    """The one of the columns by whose rate the reach of a column is; None: by none.

    Without the other GPUs of its hosts, the NICs alone carry less than its rate.
    """
    hosts = classes[column.host_class]
    nics_rps = _most_rps(hosts, column, network, {})
    if nics_rps is None or column.rate_rps <= nics_rps:
        return None
    other = _OTHER[column.shape.phase]
    return _best(columns).get((column.host_class, other))


def _best(columns: Sequence[Column]) -> dict[tuple[int, Phase], Column]:
    """By class and phase, the column with the highest rate per GPU."""
    best: dict[tuple[int, Phase], Column] = {}
    for column in columns:
        key = (column.host_class, column.shape.phase)
        if key not in best or _per_gpu(column) > _per_gpu(best[key]):
            best[key] = column
    return best


def _per_gpu(column: Column) -> float:
    return column.rate_rps / column.num_gpus


def _most_rps(
    hosts: HostClass,
    column: Column,
    network: KvNetwork,
    best: Mapping[tuple[int, Phase], Column],
) -> float | None:
    """Rate at which caches get in or out; None: any rate."""
    other = _OTHER.get(column.shape.phase)
    carried = network.requests_per_s(hosts.nic_bytes_per_s)
    if other is None or carried is None:
        return None
    # Its stages may be spread: the more hosts it is on, the more ways there are.
    num_hosts = min(column.num_groups, hosts.num_hosts)
    left = max(0, num_hosts * hosts.num_gpus - column.num_gpus)
    there = best.get((column.host_class, other))
    local_rps = 0.0 if there is None else left * _per_gpu(there)
    return local_rps + num_hosts * carried
