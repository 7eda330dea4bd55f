"""Every host for itself: a slice each, with the best that one host holds."""

from dataclasses import dataclass, replace

from clusters.cluster import Cluster
from clusters.fabric import Fabric
from clusters.node import Node
from planner.check import check_deployment
from planner.objective import Goal
from planner.problem import SearchSpace
from planner.search.provisioning.host_units import by_host, near_plans
from planner.search.provisioning.hosts import host_classes
from planner.search.provisioning.method import program_data
from planner.search.provisioning.optimum import Allocation, Target, allocate
from planner.search.provisioning.program import ProgramData
from planner.simulator.system import Phase, Routing
from tests.planner.search.provisioning.test_program import column
from tests.planner.tiny_problems import (
    context_of,
    mixed_cluster,
    shape,
    tiny_cluster,
    tiny_problem,
)

TARGET = Target(goal=Goal.MAX_GOODPUT)


def planned(columns, num_nodes=3, cluster=None, alone=None, search=None):
    problem = replace(
        tiny_problem(),
        cluster=cluster or tiny_cluster(num_nodes),
        search=search or SearchSpace(),
    )
    planner = context_of(problem).evaluator.planner
    names = [gpu.name for gpu in problem.cluster.gpu_types()]
    classes = host_classes(problem.cluster, names)
    data = program_data(planner, classes, columns)
    deployment = by_host(planner, data, TARGET, alone)
    if deployment is not None:
        check_deployment(problem, deployment)
    return deployment


def test_each_host_gets_its_best_mix_and_keeps_its_caches():
    # Four GPUs: three prefill 3/s, one decodes 3/s; over all hosts 1 : 3 as well.
    found = planned([column(Phase.PREFILL, 1.0), column(Phase.DECODE, 3.0)])
    assert found.describe().startswith("9P3D")
    assert {replica.slice for replica in found.replicas} == {0, 1, 2}
    node_of = {r.name: r.gpu_indices[0] // 4 for r in found.replicas}
    assert {node_of[r.source] - node_of[r.target] for r in found.routes} == {0}


def test_replicas_that_span_hosts_are_left_out():
    wide = column(Phase.DECODE, 100.0, tp=4, pp=2)
    narrow = column(Phase.DECODE, 3.0)
    found = planned([column(Phase.PREFILL, 1.0), wide, narrow])
    assert found.describe().startswith("9P3D")
    assert planned([column(Phase.PREFILL, 1.0), wide]) is None


def mixed_hosts():
    """Two hosts of either class, two GPUs each; prefill 1/s, decode 3/s."""
    first, other = mixed_cluster().nodes
    nodes = tuple(
        replace(node, name=f"{node.name}_{number}")
        for node in (first, other)
        for number in range(2)
    )
    columns = [
        replace(column(phase, rate, host_class=index), shape=shape(phase, gpu_type=gpu))
        for index, gpu in enumerate(("tiny", "other"))
        for phase, rate in ((Phase.PREFILL, 1.0), (Phase.DECODE, 3.0))
    ]
    return Cluster(name="mixed", nodes=nodes, fabric=Fabric()), columns


def test_hosts_of_other_classes_share_a_pool():
    # Alone a host runs one replica of each phase; of the pool's four GPUs three prefill
    # 1/s and one decodes 3/s.
    cluster, columns = mixed_hosts()
    found = planned(columns, cluster=cluster, alone={0})
    kinds = {
        number: sorted(
            (str(r.shape.phase), r.shape.gpu_type)
            for r in found.replicas
            if r.slice == number
        )
        for number in range(3)
    }
    alone = [("decode", "tiny"), ("prefill", "tiny")]
    assert kinds[0] == kinds[1] == alone
    assert kinds[2] == [("decode", "other")] + [("prefill", "other")] * 3
    # Nothing is left to share a pool where all hosts are alone.
    assert planned(columns[:2], alone={0}).describe().startswith("9P3D")


def test_limits_on_gpus_and_replicas_are_kept_over_all_hosts():
    columns = [column(Phase.PREFILL, 1.0), column(Phase.DECODE, 3.0)]
    # A host's part of two prefills is one: the third host has none left.
    few = planned(columns, search=SearchSpace(max_replicas=2))
    assert few.describe().startswith("2P2D")
    assert {replica.slice for replica in few.replicas} == {0, 1}
    # Six a phase are two a host: three prefills and a decode do not fit that.
    six = planned(columns, search=SearchSpace(max_replicas=6))
    assert six.describe().startswith("6P3D")
    # Ten GPUs are two hosts and a half.
    ten = planned(columns, search=SearchSpace(max_gpus=10))
    assert ten.describe().startswith("6P2D")


def test_others_have_what_hosts_alone_leave_of_the_limits():
    cluster, columns = mixed_hosts()
    found = planned(
        columns, cluster=cluster, alone={0}, search=SearchSpace(max_replicas=3)
    )
    kinds = [(str(r.phase), r.gpu_type) for r in found.replicas]
    assert kinds.count(("prefill", "tiny")) == kinds.count(("decode", "tiny")) == 2
    assert kinds.count(("prefill", "other")) == kinds.count(("decode", "other")) == 1
    only = planned(
        columns, cluster=cluster, alone={0}, search=SearchSpace(max_replicas=2)
    )
    assert {r.gpu_type for r in only.replicas} == {"tiny"}


@dataclass
class Answered:
    """What `near_plans` needs of a programme."""

    data: ProgramData
    target: Target
    answer: Allocation | None


def near(cluster, columns, *, is_few, target=TARGET):
    problem = replace(tiny_problem(), cluster=cluster)
    evaluator = context_of(problem).evaluator
    names = [gpu.name for gpu in problem.cluster.gpu_types()]
    classes = host_classes(problem.cluster, names)
    data = program_data(evaluator.planner, classes, columns)
    programme = Answered(data, target, allocate(data, target))
    found = list(near_plans(evaluator, programme, is_few=is_few))
    for deployment in found:
        check_deployment(problem, deployment)
    return data.narrow, found


def test_plans_for_slow_nics_alone_and_beside_fast_ones():
    # 100 tokens are 3200 bytes: NICs of 1 kB/s carry a request in three seconds.
    fast, other = mixed_cluster().nodes
    slow_type = replace(other.type, nic_bytes_per_s=1e3)
    slow = [Node(name=f"slow{n}", type=slow_type) for n in range(2)]
    columns = [
        replace(column(phase, 1.0, host_class=index), shape=shape(phase, gpu_type=gpu))
        for index, gpu in enumerate(("tiny", "other"))
        for phase in (Phase.PREFILL, Phase.DECODE)
    ]
    both = Cluster(name="both", nodes=(fast, *slow), fabric=Fabric())
    narrow, found = near(both, columns, is_few=False)
    assert narrow == (1,)
    by_flow, by_hosts = found
    assert by_flow.routing is Routing.FLOW_SHARES
    # A slice for each slow host, and one for the others.
    assert len({replica.slice for replica in by_hosts.replicas}) == 3
    alone = Cluster(name="slow", nodes=tuple(slow), fabric=Fabric())
    only = [replace(each, host_class=0) for each in columns[2:]]
    narrow, (by_hosts,) = near(alone, only, is_few=False)
    assert narrow == (0,)
    assert {route.share_frac for route in by_hosts.routes} == {None}
    # The same hosts are not tried twice.
    assert len(near(alone, only, is_few=True)[1]) == 1
    # Fast NICs: hosts for themselves only where simulations are cheap.
    quick = Cluster(name="quick", nodes=(fast,), fabric=Fabric())
    assert near(quick, columns[:2], is_few=False) == ((), [])
    assert len(near(quick, columns[:2], is_few=True)[1]) == 1
    wanted = Target(goal=Goal.MIN_GPUS, rate_rps=1.0)
    assert near(alone, only, is_few=True, target=wanted)[1] == []
