"""Host units: plans whose KV caches stay on hosts, or on links that carry them.

Where NICs are slow, replicas that share a pool over several hosts send each other more
KV caches than links carry: the programme counts what could be sent, and routers go by
work. Requests that stay in the slice of one host send none over NICs; those that go by
the shares of the KV flow send what links carry.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from planner.cells import deal
from planner.deployment import Deployment, ReplicaShape
from planner.evaluate import Evaluator
from planner.flow_routing import may_gain
from planner.max_kv_flow import routed_by_flow
from planner.placement import StageGpus
from planner.search.provisioning.assignment import Placed, assign, deploy
from planner.search.provisioning.optimum import Target, allocate
from planner.search.provisioning.pricing import PricedProgramme
from planner.search.provisioning.program import ProgramData
from planner.serving import Planner
from planner.simulator.system import Phase


def near_plans(
    evaluator: Evaluator, programme: PricedProgramme, *, is_few: bool
) -> Iterator[Deployment]:
    """Plans that send fewer KV caches over slow NICs than queues do.

    Where some classes could make more than their NICs carry and others could not: the
    answer by the shares of its flow. Then hosts of the former for themselves, and on
    few GPUs (`is_few`) hosts of all classes. Nothing where a rate is to be served.
    """
    data, target = programme.data, programme.target
    narrow = data.narrow
    if target.rate_rps is not None or programme.answer is None:
        return
    has_others = len(narrow) < len({column.host_class for column in data.columns})
    if narrow and has_others:
        answer = deploy(evaluator.planner, data.classes, programme.answer)
        if answer is not None and may_gain(answer):
            answer = routed_by_flow(evaluator, answer)
            if answer is not None:
                yield answer
    alone: list[Collection[int] | None] = [narrow] if narrow else []
    if is_few and has_others:
        alone.append(None)
    for classes in alone:
        deployment = by_host(evaluator.planner, data, target, classes)
        if deployment is not None:
            yield deployment


def by_host(
    planner: Planner,
    data: ProgramData,
    target: Target,
    alone: Collection[int] | None = None,
) -> Deployment | None:
    """The best allocation of one host of each class, on all its hosts.

    Each host is a slice of its own. With `alone`, only those of these classes: the
    others share pools, with the best allocation of all of them. Where the plan's GPUs
    or replicas are limited, each host has its part of the replicas, and hosts beyond
    the limits have none. None where neither holds both phases.
    """
    placed: list[tuple[ReplicaShape, StageGpus, int]] = []
    num_slices = 0
    indices = range(len(data.classes)) if alone is None else sorted(alone)
    num_hosts = sum(data.classes[index].num_hosts for index in indices)
    left = data
    for index in indices:
        hosts = _each_host(_part(data, num_hosts), target, index)
        if hosts is None:
            return None
        for there in hosts:
            after = _without(left, there)
            if after is None:
                continue
            left = after
            placed += [(shape, stages, num_slices) for shape, stages in there]
            num_slices += 1
    others = [] if alone is None else _others(left, target, alone)
    if others:
        # Many of them are several cells, each a slice.
        cells = deal(planner.problem.cluster, [shape for shape, _ in others])
        for (shape, stages), cell in zip(others, cells, strict=True):
            placed.append((shape, stages, num_slices + cell))
    return _deployed(planner, placed)


def _part(data: ProgramData, num_hosts: int) -> ProgramData:
    """The same data with one host's part of the replicas, rounded up."""
    if data.max_replicas is None:
        return data
    return replace(data, max_replicas=-(-data.max_replicas // num_hosts))


def _without(data: ProgramData, there: Placed) -> ProgramData | None:
    """The same data with the limits that are left; None where they are passed."""
    num_gpus = sum(shape.parallelism.num_gpus for shape, _ in there)
    phases = [shape.phase for shape, _ in there]
    num_replicas = max(map(phases.count, data.phases), default=0)
    gpus, replicas = data.max_gpus, data.max_replicas
    left = replace(
        data,
        max_gpus=None if gpus is None else gpus - num_gpus,
        max_replicas=None if replicas is None else replicas - num_replicas,
    )
    return left if min(left.max_gpus or 0, left.max_replicas or 0) >= 0 else None


def _each_host(data: ProgramData, target: Target, index: int) -> list[Placed] | None:
    """What runs on each host of a class; none without both phases.

    None when it does not fit.
    """
    hosts = data.classes[index]
    columns = tuple(
        replace(column, host_class=0)
        for column in data.columns
        if column.host_class == index
        and column.num_groups <= hosts.num_gpus // column.width
    )
    network = replace(
        data.network, vertices=(data.network.vertex_of(hosts.leaf),), links=()
    )
    one = replace(
        data,
        classes=(replace(hosts, hosts=hosts.hosts[:1]),),
        columns=columns,
        network=network,
        pool_sizes={},
    )
    allocation = allocate(one, target) if len(one.phases) > 1 else None
    if allocation is None:
        return []
    placed = [
        assign((replace(hosts, hosts=(host,)),), allocation) for host in hosts.hosts
    ]
    whole = [there for there in placed if there is not None]
    return whole if len(whole) == len(placed) else None


def _others(data: ProgramData, target: Target, alone: Collection[int]) -> Placed:
    """What runs on the classes that are not alone; nothing without both phases."""
    columns = tuple(c for c in data.columns if c.host_class not in alone)
    rest = replace(data, columns=columns, pool_sizes={})
    allocation = allocate(rest, target) if len(rest.phases) > 1 else None
    return [] if allocation is None else assign(data.classes, allocation) or []


def _deployed(
    planner: Planner, placed: Sequence[tuple[ReplicaShape, StageGpus, int]]
) -> Deployment | None:
    """Replicas in their slices, prefill first."""
    if not placed:
        return None
    ordered = sorted(placed, key=lambda each: each[0].phase is not Phase.PREFILL)
    shapes, stages, slices = zip(*ordered, strict=True)
    return planner.deploy_if_joined(shapes, stages, slices)
