"""The fleet of a problem: groups, costs and links of its cluster."""

import numpy as np

from clusters.cluster import Cluster
from models.latency.library import LatencyLibrary
from models.llm import LlmSpec
from planner.pipelines.place import best_flow
from planner.pipelines.problem_fleet import problem_fleet
from planner.problem import Problem, SearchSpace, Service
from planner.workload.workload import Workload


def mixed_problem(**search) -> Problem:
    workload = Workload.poisson(rate_rps=1.0, lengths="750x240")
    service = Service(llm=LlmSpec.load("llama-2-70b"), workload=workload)
    return Problem(
        cluster=Cluster.load("pool_24_t4_l4_a100"),
        services=(service,),
        search=SearchSpace(**search),
    )


def test_every_gpu_of_the_pool_is_a_machine_that_holds_some_layers():
    found = problem_fleet(mixed_problem(), LatencyLibrary.default())
    assert found is not None
    fleet = found.machines.fleet
    counts = {name: len(fleet.of_kind(name)) for name in fleet.kind_names}
    assert counts == {"a100_sxm_40gb TP1": 4, "l4 TP1": 8, "t4 TP1": 12}
    assert sorted(gpu for group in found.gpus for gpu in group) == list(range(24))
    # 40, 24 and 16 GB beside layers of 1.71 GB: the larger hold more, none the model.
    most = [fleet.kind(name).max_layers for name in fleet.kind_names]
    assert most == sorted(most, reverse=True)
    assert max(most) < 80


def test_links_are_those_of_the_topology():
    problem = mixed_problem()
    found = problem_fleet(problem, LatencyLibrary.default())
    assert found is not None
    path = problem.cluster.topology.route([0], [23])
    fleet = found.machines.fleet
    assert fleet.link_bytes_per_s[0, 23] == path.bytes_per_s
    assert fleet.link_latency_ms[0, 23] == path.latency_ms
    assert np.isfinite(fleet.link_bytes_per_s).all()


def test_a_model_too_large_for_any_kind_alone_is_placed_over_all():
    found = problem_fleet(mixed_problem(), LatencyLibrary.default())
    assert found is not None
    best = best_flow(found.machines.fleet)
    assert best is not None
    assert best.layout.why_not(found.machines.fleet) is None
    assert 0.0 <= best.gap_frac < 0.5


def test_the_search_space_picks_gpu_types():
    found = problem_fleet(mixed_problem(gpu_types=("l4",)), LatencyLibrary.default())
    assert found is not None
    assert found.machines.fleet.kind_names == ("l4 TP1",)
    assert len(found.gpus) == 8
