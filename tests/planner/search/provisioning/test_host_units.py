"""Every host for itself: a slice each, with the best that one host holds."""

from dataclasses import replace

from planner.check import check_deployment
from planner.objective import Goal
from planner.search.provisioning.host_units import by_host
from planner.search.provisioning.hosts import host_classes
from planner.search.provisioning.method import program_data
from planner.search.provisioning.optimum import Target
from planner.simulator.system import Phase
from tests.planner.search.provisioning.test_program import column
from tests.planner.tiny_problems import context_of, tiny_cluster, tiny_problem

TARGET = Target(goal=Goal.MAX_GOODPUT)


def planned(columns, num_nodes=3):
    problem = replace(tiny_problem(), cluster=tiny_cluster(num_nodes))
    planner = context_of(problem).evaluator.planner
    classes = host_classes(problem.cluster, ["tiny"])
    deployment = by_host(planner, program_data(planner, classes, columns), TARGET)
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
