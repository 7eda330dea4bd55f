"""Cost: $/h of the GPUs in use."""

from dataclasses import replace

import pytest

from planner.cost import power_w, usd_per_hour
from planner.simulator.system import Phase
from tests.clusters.tiny_clusters import make_tiny_gpu
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


def test_power_is_that_of_the_boards():
    # The tiny GPU has a limit of 100 W.
    planner = planner_of(tiny_problem())
    deployment = planner.deploy([shape(Phase.AGGREGATED, tp=2)])
    assert power_w(planner.problem.cluster, deployment) == 200.0
    unknown = replace(make_tiny_gpu(nvlink_gb_per_s=100.0), tdp_w=None)
    assert power_w(tiny_cluster(gpu=unknown), deployment) is None
