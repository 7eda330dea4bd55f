"""Where replicas run: ports never meet, ranks fill the nodes in order."""

from itertools import chain

import pytest

from planner.export.instances import Instance, instances_of, why_not_even
from planner.plan import Plan
from planner.simulator.system import Phase
from tests.planner.export.plans import PLANS, pipeline, plan_of, problem_of


def placed(plan: Plan) -> tuple[Instance, ...]:
    return instances_of(plan.deployment.replicas, plan.problem.cluster.topology)


@pytest.mark.parametrize("name", PLANS)
def test_no_two_replicas_use_one_port_of_a_node(name: str) -> None:
    used = list(chain.from_iterable(ports(each) for each in placed(PLANS[name]())))
    assert len(set(used)) == len(used)


def ports(instance: Instance) -> list[tuple[int, int]]:
    """(node, port): the API, the meeting point, and one side channel a GPU."""
    head = instance.head.node
    side = [
        (part.node, part.side_channel_port + rank)
        for part in instance.parts
        for rank in range(len(part.local_gpus))
    ]
    return [(head, instance.http_port), (head, instance.master_port), *side]


def test_a_replica_on_two_nodes_has_a_part_on_each_in_rank_order() -> None:
    # Stage 0 is on GPUs 0-7 of the cluster (node 0), stage 1 on 8-15 (node 1).
    prefill, decode = placed(pipeline())
    assert [part.node for part in prefill.parts] == [0, 1]
    assert [part.local_gpus for part in prefill.parts] == [tuple(range(8))] * 2
    assert [part.node for part in decode.parts] == [2]


def test_local_gpus_keep_the_order_of_ranks() -> None:
    plan = plan_of(
        problem_of("a100_1x4"), [(Phase.AGGREGATED, "a100_sxm", ((3, 1), (2, 0)))]
    )
    (instance,) = placed(plan)
    assert instance.head.local_gpus == (3, 1, 2, 0)


@pytest.mark.parametrize(
    ("stages", "reason"),
    [
        # Two stages on node 0 and one on node 1.
        (((0,), (1,), (8,)), "unequal numbers of GPUs"),
        # Node 0, node 1, node 0.
        (((0,), (8,), (1,)), "returns to a node"),
    ],
)
def test_ranks_that_do_not_fill_nodes_evenly_are_named(
    stages: tuple[tuple[int, ...], ...], reason: str
) -> None:
    problem = problem_of({"nodes": [{"type": "p4de.24xlarge", "count": 2}]})
    plan = plan_of(problem, [(Phase.AGGREGATED, "a100_sxm", stages)])
    (replica,) = plan.deployment.replicas
    why_not = why_not_even(replica, problem.cluster.topology)
    assert why_not is not None
    assert reason in why_not
