"""Recipes: which numbers of groups of which types make a pipeline."""

from planner.placement import FreeGpus
from planner.search.pipelines.recipes import holds_model, recipes, shape_of
from planner.simulator.system import Phase
from tests.planner.unlike_problems import two_types, unlike_problem


def listed(problem):
    free = FreeGpus.of(problem.cluster)
    return [
        tuple((kind.gpu.name, kind.tp, n) for kind, n in recipe)
        for recipe in recipes(problem, free)
    ]


def test_small_recipes_and_equal_shares_of_all_groups():
    # Four big GPUs, two small ones, one a node.
    found = listed(unlike_problem(two_types(4, 2, gpus_per_node=1), max_pp=8))
    small = {(a, b) for a in (1, 2, 3) for b in (1, 2, 3) if a + b <= 4 and b <= 2}
    shares = {(4, 2), (2, 1)}
    assert {(a[2], b[2]) for a, b in found} == small | shares
    assert len(found) == len(set(found))


def test_the_search_space_limits_stages_gpus_and_widths():
    cluster = two_types(2, 2)
    assert all(a[2] + b[2] <= 2 for a, b in listed(unlike_problem(cluster, max_pp=2)))
    assert all(
        a[1] * a[2] + b[1] * b[2] <= 3
        for a, b in listed(unlike_problem(cluster, max_gpus=3))
    )
    widths = {each[1] for recipe in listed(unlike_problem(cluster)) for each in recipe}
    assert widths == {1, 2}
    only = listed(unlike_problem(cluster, tp=(2,)))
    assert {each[1] for recipe in only for each in recipe} == {2}


def test_types_with_more_memory_come_first():
    problem = unlike_problem(two_types(big_bytes=2.0**20, small_bytes=2.0**21))
    assert all(recipe[0][0] == "small" for recipe in listed(problem))


def test_one_type_has_no_recipes():
    assert listed(unlike_problem(two_types(), gpu_types=("big",))) == []


def test_a_recipe_is_a_shape_stage_by_stage():
    problem = unlike_problem(two_types(1, 1))
    free = FreeGpus.of(problem.cluster)
    recipe = next(r for r in recipes(problem, free) if [k.tp for k, _ in r] == [2, 1])
    shape = shape_of(recipe, Phase.DECODE, (4, 2))
    assert shape.gpu_types == ("big", "small")
    assert shape.parallelism.stage_widths == (2, 1)
    alike = next(r for r in recipes(problem, free) if [k.tp for k, _ in r] == [1, 1])
    assert shape_of(alike, Phase.DECODE).parallelism.stage_tp is None


def test_too_little_memory_is_seen_before_layers_are_dealt_out():
    # 7232 bytes of weights: 6 layers of 1152 and two of 160.
    for each_bytes, holds in ((3_000.0, False), (5_000.0, True)):
        cluster = two_types(big_bytes=each_bytes, small_bytes=each_bytes)
        problem = unlike_problem(cluster, tp=(1,), max_pp=2)
        (recipe,) = recipes(problem, FreeGpus.of(cluster))
        assert holds_model(problem, recipe) is holds
