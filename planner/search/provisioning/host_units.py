"""Host units: every host prefills and decodes for itself, so KV caches stay on it.

Where NICs are slow, replicas that share a pool over several hosts send each other more
KV caches than the programme knows: it adds the NICs of a class up. Requests that stay
in the slice of one host send none over NICs.
"""

from collections.abc import Sequence
from dataclasses import replace

from planner.deployment import Deployment, ReplicaShape
from planner.placement import StageGpus
from planner.search.provisioning.assignment import assign
from planner.search.provisioning.optimum import Target, allocate
from planner.search.provisioning.program import ProgramData
from planner.serving import Planner
from planner.simulator.system import Phase


def by_host(planner: Planner, data: ProgramData, target: Target) -> Deployment | None:
    """The best allocation of one host of each class, on all its hosts.

    Each host is a slice of its own. None where no host holds both phases.
    """
    placed: list[tuple[ReplicaShape, StageGpus, int]] = []
    num_slices = 0
    for index, hosts in enumerate(data.classes):
        columns = tuple(
            replace(column, host_class=0)
            for column in data.columns
            if column.host_class == index
            and column.num_groups <= hosts.num_gpus // column.width
        )
        first = (replace(hosts, hosts=hosts.hosts[:1]),)
        vertices = (data.network.vertex_of(hosts.leaf),)
        network = replace(data.network, vertices=vertices, links=())
        one = replace(
            data, classes=first, columns=columns, network=network, pool_sizes={}
        )
        allocation = allocate(one, target) if len(one.phases) > 1 else None
        if allocation is None:
            continue
        for host in hosts.hosts:
            there = assign((replace(hosts, hosts=(host,)),), allocation)
            if there is None:
                return None
            placed += [(shape, stages, num_slices) for shape, stages in there]
            num_slices += 1
    return _deployed(planner, placed)


def _deployed(
    planner: Planner, placed: Sequence[tuple[ReplicaShape, StageGpus, int]]
) -> Deployment | None:
    """Replicas in their slices, prefill first."""
    if not placed:
        return None
    ordered = sorted(placed, key=lambda each: each[0].phase is not Phase.PREFILL)
    shapes, stages, slices = zip(*ordered, strict=True)
    return planner.deploy_if_joined(shapes, stages, slices)
