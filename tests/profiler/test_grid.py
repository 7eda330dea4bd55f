"""The grid is small, covers its limits, and grows where the fit misses."""

import pytest

from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.profile_records import (
    Environment,
    Role,
    Spread,
    Status,
    StepPoint,
    StepRecord,
)
from profiler.grid import (
    GridLimits,
    decode_point,
    grid_of,
    num_rows,
    predicted_ms,
    refine,
    rows_of,
    scaled_to_rows,
)

FLAT = StepTable(
    prefill_tokens=(1.0, 2.0),
    prefill_ms=(1.0, 1.0),
    decode_batch=(1.0, 2.0),
    decode_ms=(1.0, 1.0),
    decode_per_kv_token_ms=(0.0, 0.0),
)


def record(point: StepPoint, role: Role, ms: float = 1.0) -> StepRecord:
    spread = Spread(ms=ms, p10_ms=ms, p90_ms=ms, ci_frac=0.0, num_samples=9)
    return StepRecord(
        environment=Environment(device="synthetic", device_name="p", gpu="p"),
        llm=LlmSpec.load("opt-13b"),
        tp=1,
        part="dense",
        dtype="bf16",
        point=point,
        role=role,
        status=Status.OK,
        step=spread,
    )


@pytest.mark.parametrize(("part", "most"), [("dense", 60), ("ends", 15)])
def test_grid_is_small_and_names_each_point_once(part: str, most: int) -> None:
    points = [each.point for each in grid_of(part, GridLimits())]
    assert len(points) == len(set(points)) <= most


def test_grid_reaches_its_limits_and_no_further() -> None:
    limits = GridLimits()
    points = [each.point for each in grid_of("dense", limits)]
    assert max(p.prompt_tokens for p in points) == limits.max_prompt_tokens
    assert max(p.num_decodes for p in points) == limits.max_requests
    assert max(p.kv_tokens for p in points) == limits.max_kv_tokens
    assert max(max(p.past_tokens, default=0) for p in points) == limits.max_past_tokens


def test_extremes_come_first_so_that_a_cut_leaves_the_range_covered() -> None:
    decodes = [
        each.point.num_decodes
        for each in grid_of("dense", GridLimits())
        if each.point.phase == "decode"
    ]
    assert {decodes[0], decodes[1]} == {1, 256}


def test_phases_take_turns_so_that_a_cut_leaves_points_of_both() -> None:
    phases = [each.point.phase for each in grid_of("dense", GridLimits())[:12]]
    assert phases == ["prefill", "decode"] * 6


def test_two_thirds_of_the_points_are_enough_for_a_fit_with_an_error() -> None:
    grid = grid_of("dense", GridLimits())
    cut = grid[: 2 * len(grid) // 3]
    for phase in ("prefill", "decode"):
        roles = [each.role for each in cut if each.point.phase == phase]
        assert roles.count(Role.FIT) >= 8
        assert roles.count(Role.HOLDOUT) >= 4


def test_held_out_points_are_not_fitted() -> None:
    grid = grid_of("dense", GridLimits())
    fitted = {each.point for each in grid if each.role is Role.FIT}
    held = {each.point for each in grid if each.role is Role.HOLDOUT}
    assert held
    assert not fitted & held


def test_smaller_memory_gives_a_grid_that_fits() -> None:
    limits = scaled_to_rows(GridLimits(), 20_000)
    assert num_rows(grid_of("dense", limits)) <= 20_000


def test_rows_are_those_of_prompts_pasts_and_contexts() -> None:
    point = StepPoint(
        new_tokens=(10,), past_tokens=(20,), num_decodes=3, kv_tokens=30.0
    )
    assert rows_of(point) == 60


def test_good_fit_is_not_refined() -> None:
    records = [record(decode_point(b, 8), Role.HOLDOUT) for b in (2, 8)]
    assert refine(records, FLAT, target_frac=0.03) == ()


def test_worst_held_out_point_is_fitted_and_its_neighbourhood_held_out() -> None:
    records = [
        record(decode_point(4, 8), Role.FIT),
        record(decode_point(64, 8), Role.FIT),
        record(decode_point(8, 8), Role.HOLDOUT, ms=1.1),
        record(decode_point(16, 8), Role.HOLDOUT, ms=1.5),
    ]
    fitted, held = refine(records, FLAT, target_frac=0.03)
    assert (fitted.point, fitted.role) == (decode_point(16, 8), Role.FIT)
    # 16 is as far from 4 as from 64 in log scale: halfway down is 8.
    assert (held.point, held.role) == (decode_point(8, 8), Role.HOLDOUT)


def test_prediction_of_a_chunk_counts_its_past() -> None:
    table = StepTable(
        prefill_tokens=(1.0, 2.0),
        prefill_ms=(1.0, 1.0),
        prefill_per_sq_token_ms=1e-3,
        decode_batch=(1.0,),
        decode_ms=(1.0,),
        decode_per_kv_token_ms=(0.0,),
    )
    point = StepPoint(new_tokens=(10,), past_tokens=(20,))
    # 1 + 1e-3 * (100 + 2 * 10 * 20)
    assert predicted_ms(table, point) == pytest.approx(1.5)
