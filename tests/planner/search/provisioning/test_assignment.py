"""Replicas on hosts as the programme has split them between the phases."""

from dataclasses import replace

from planner.objective import Goal
from planner.search.provisioning.assignment import assign
from planner.search.provisioning.hosts import HostClass
from planner.search.provisioning.optimum import Target, allocate
from planner.search.provisioning.splits import Split
from planner.simulator.system import Phase
from tests.planner.search.provisioning.test_program import (
    SPLIT,
    column,
    data_of,
    host_class,
)


def hosts_of(placed, phase, hosts: HostClass) -> list[tuple[int, ...]]:
    """The hosts that the stages of each replica of a phase are on."""
    host_of = {
        gpu: number
        for number, islands in enumerate(hosts.hosts)
        for island in islands
        for gpu in island
    }
    return sorted(
        tuple(host_of[stage[0]] for stage in stages)
        for shape, stages in placed
        if shape.phase is phase
    )


def numbered(num_gpus: int, num_hosts: int, nic: float) -> HostClass:
    """Hosts whose GPUs have numbers of their own."""
    gpus = range(num_gpus * num_hosts)
    return replace(
        host_class(num_gpus, num_hosts, nic),
        hosts=tuple(
            (tuple(gpus[n * num_gpus : (n + 1) * num_gpus]),) for n in range(num_hosts)
        ),
    )


def test_every_host_gets_both_phases_where_nics_are_slow():
    # Half a host of each phase serves 1/s. By width alone, the two that decode would
    # be put on one host.
    columns = [column(phase, 1.0, tp=2) for phase in SPLIT]
    slow = numbered(4, 2, nic=0.1)
    found = allocate(
        data_of([slow], columns, kv_bytes=1.0), Target(goal=Goal.MAX_GOODPUT)
    )
    assert found.splits == {0: ((Split(num_prefill=2, num_decode=2), 2),)}
    placed = assign((slow,), found)
    assert hosts_of(placed, Phase.PREFILL, slow) == [(0,), (1,)]
    assert hosts_of(placed, Phase.DECODE, slow) == [(0,), (1,)]
    taken = [gpu for _, stages in placed for stage in stages for gpu in stage]
    assert sorted(taken) == list(range(8))


def test_splits_that_do_not_fit_whole_groups_are_passed_over():
    # Groups are dealt out in parts, so that hosts may have room for half of one each:
    # then any GPUs will do.
    columns = [column(phase, 1.0, tp=2) for phase in SPLIT]
    slow = numbered(4, 2, nic=0.1)
    found = allocate(
        data_of([slow], columns, kv_bytes=1.0), Target(goal=Goal.MAX_GOODPUT)
    )
    odd = replace(found, splits={0: ((Split(num_prefill=1, num_decode=3), 2),)})
    assert len(assign((slow,), odd)) == 4
