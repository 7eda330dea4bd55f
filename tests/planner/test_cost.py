"""Cost: $/h of the GPUs in use."""

import pytest

from planner.cost import usd_per_hour
from planner.simulator.system import Phase
from tests.planner.tiny_problems import (
    mixed_cluster,
    planner_of,
    shape,
    tiny_cluster,
    tiny_problem,
)


def cost_of(cluster, *shapes):
    deployment = planner_of(tiny_problem(cluster=cluster)).deploy(shapes)
    return usd_per_hour(cluster, deployment)


def test_part_of_a_node_costs_in_proportion():
    # Three of four GPUs of a node at 10 $/h.
    assert cost_of(tiny_cluster(), *[shape(Phase.AGGREGATED)] * 3) == pytest.approx(7.5)


def test_types_cost_what_their_nodes_cost():
    both = [shape(Phase.PREFILL), shape(Phase.DECODE, gpu_type="other")]
    assert cost_of(mixed_cluster(), *both) == pytest.approx(2.5 + 0.5)


def test_a_missing_price_is_no_price():
    assert cost_of(tiny_cluster(usd_per_hour=None), shape(Phase.AGGREGATED)) is None
