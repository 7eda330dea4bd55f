"""`check_plan`: every violation is an error that names its key."""

from dataclasses import replace

import pytest

from clusters.fields import InputError
from models.parallelism import Parallelism
from planner.check import check_deployment
from planner.simulator.system import Phase
from tests.planner.tiny_problems import planner_of, shape, tiny_cluster, tiny_problem

PROBLEM = tiny_problem(cluster=tiny_cluster(2))
SPLIT = planner_of(PROBLEM).deploy([shape(Phase.PREFILL, tp=2), shape(Phase.DECODE)])


def changed(index, **changes):
    """SPLIT with changes to one replica."""
    replicas = list(SPLIT.replicas)
    replicas[index] = replace(replicas[index], **changes)
    return replace(SPLIT, replicas=tuple(replicas))


def rerouted(**changes):
    return replace(SPLIT, routes=(replace(SPLIT.routes[0], **changes),))


WRONG = {
    "deployment.gpus": [
        changed(1, stage_gpus=((0,),)),
        changed(1, stage_gpus=((8,),)),
        changed(1, stage_gpus=((-1,),)),
        changed(0, stage_gpus=((0, 0),)),
    ],
    "deployment.replicas[0].stage_gpus[0]": [
        changed(0, stage_gpus=((0,),)),
        changed(0, stage_gpus=((0, 4),)),
    ],
    "deployment.replicas[1].gpu_type": [changed(1, gpu_type="other")],
    "deployment.replicas[1].parallelism": [
        changed(1, parallelism=Parallelism(tp=3), stage_gpus=((4, 5, 6),)),
        changed(1, parallelism=Parallelism(pp=3), stage_gpus=((4,), (5,), (6,))),
        changed(
            1,
            parallelism=Parallelism(pp=2, stage_layers=(1, 2)),
            stage_gpus=((4,), (5,)),
        ),
    ],
    "deployment.replicas[1].kv_capacity_tokens": [
        changed(1, kv_capacity_tokens=SPLIT.replicas[1].kv_capacity_tokens + 1)
    ],
    "deployment.replicas": [
        changed(1, phase=Phase.AGGREGATED),
        replace(SPLIT, replicas=SPLIT.replicas[:1]),
        replace(SPLIT, replicas=SPLIT.replicas[1:], routes=()),
    ],
    "deployment.routes": [replace(SPLIT, routes=())],
    "deployment.routes[0].source": [rerouted(source="decode-0")],
    "deployment.routes[0].target": [rerouted(target="nobody")],
    "deployment.routes[0].bytes_per_s": [rerouted(bytes_per_s=1e15)],
    "deployment.routes[0].edges": [rerouted(edges=(10_000,)), rerouted(edges=())],
    "prefill-0.slice": [replace(changed(0, slice=1), routes=())],
}


def test_what_the_planner_deploys_is_right():
    check_deployment(PROBLEM, SPLIT)


@pytest.mark.parametrize(
    ("key", "deployment"),
    [(key, deployment) for key, bad in WRONG.items() for deployment in bad],
)
def test_each_violation_names_its_key(key, deployment):
    with pytest.raises(InputError) as error:
        check_deployment(PROBLEM, deployment)
    assert error.value.key == key
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("space", "key"),
    [
        ({"max_gpus": 2}, "deployment.gpus"),
        ({"max_replicas": 1}, "deployment.replicas"),
    ],
)
def test_limits_of_the_search_space_hold_for_plans(space, key):
    problem = tiny_problem(cluster=PROBLEM.cluster, **space)
    shapes = [shape(Phase.PREFILL), shape(Phase.PREFILL), shape(Phase.DECODE)]
    with pytest.raises(InputError) as error:
        check_deployment(problem, planner_of(problem).deploy(shapes))
    assert error.value.key == key


def test_a_model_that_fills_the_memory_is_refused():
    engine = replace(
        PROBLEM.engine,
        memory=replace(PROBLEM.engine.memory, runtime_reserve_bytes=8 * 2.0**30),
    )
    with pytest.raises(InputError, match="room"):
        check_deployment(replace(PROBLEM, engine=engine), SPLIT)
