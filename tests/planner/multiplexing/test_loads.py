"""Loads: what an LLM can serve in a unit, by hand and by law."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.fields import InputError
from planner.multiplexing.load_table import MEMORY, NUM_RESOURCES, PREFILLS, SMS
from planner.multiplexing.loads import (
    OperatingPoint,
    loads_at,
    most_rps,
)
from planner.multiplexing.meshes import MeshKind
from planner.simulator.system import Phase
from planner.slo import Slo
from tests.planner.multiplexing.tiny_shared import book_of, tiny_shared

ONE = MeshKind(gpu_type="tiny", num_gpus=1)
SPACE = OperatingPoint(prefill_share_frac=0.3, prefill_load_frac=0.5)
TURNS = OperatingPoint(prefill_share_frac=1.0, prefill_load_frac=0.5, cycle_ms=50.0)


def cost_of(rate_rps: float, **slo):
    limits = {"ttft_ms": 2000.0, "tpot_ms": 100.0, **slo}
    return book_of(tiny_shared(rate_rps, slo=Slo(**limits))).costs(0, ONE)


def only_load(point: OperatingPoint, rate_rps: float, **slo):
    loads = loads_at(point, [(0, cost_of(rate_rps, **slo), (rate_rps,))])
    return loads.only(np.array([0])) if len(loads) else loads


def test_side_by_side_the_batch_follows_from_littles_law() -> None:
    load = only_load(SPACE, 20.0)
    # 10 steps of 10 + 0.5 N ms (the host's time: no share slows it) at 0.02 requests
    # a ms: N = 0.2 * (10 + 0.5 N), so N = 2 / 0.9, and the step takes 10 / 0.9 ms.
    # A tenth of it is for the requests, so deviations die away at 0.9 of the pace and
    # the variance is N / 0.9. The 90 % quantile is 1.2816 deviations above N.
    mean = 2.0 / 0.9
    batch = mean + 1.2815516 * math.sqrt(mean / 0.9)
    assert load.batch[0] == pytest.approx(batch, rel=1e-4)
    assert load.tpot_ms[0] == pytest.approx(10.0 + 0.5 * batch, rel=1e-4)
    # Prompts take 20 ms each: 40 % of the time, of the 50 % that they may take.
    assert load.takes[0, PREFILLS] == pytest.approx(0.8)
    assert load.takes[0, SMS] == pytest.approx(0.3)


def test_in_turns_the_batch_follows_from_the_cycle() -> None:
    load = only_load(TURNS, 10.0)
    # 0.01 requests a ms in 10 steps of a cycle of 50 ms each: 5 at a time, in steps of
    # 12.5 ms of which 2.5 are for the requests.
    batch = 5.0 + 1.2815516 * math.sqrt(5.0 / 0.8)
    assert load.batch[0] == pytest.approx(batch)
    # A decode step of 12.5 ms in each cycle, and 0.2 of the time for prefills; a full
    # batch takes longer, and so does its cycle.
    assert load.takes[0, SMS] == pytest.approx(12.5 / 50.0 + 0.2)
    assert load.tpot_ms[0] == pytest.approx(50.0 * (10.0 + 0.5 * batch) / 12.5)


def test_weights_processes_and_kv_take_memory() -> None:
    cost = cost_of(20.0)
    budget = cost.budget_bytes
    cost = replace(cost, fixed_bytes=0.25 * budget, process_bytes=0.1 * budget)
    for point, processes in ((SPACE, 0.2), (TURNS, 0.1)):
        loads = loads_at(point, [(0, cost, (5.0,))])
        kv_bytes = loads.batch[0] * 105.5 * cost.kv_bytes_per_token
        # A process for each phase where phases run side by side, else one.
        expected = 0.25 + processes + kv_bytes / budget
        assert loads.takes[0, MEMORY] == pytest.approx(expected)


def test_limits_cap_the_load() -> None:
    # TPOT: a batch of 1 takes 10.5 ms, so 10 ms is missed at any rate.
    assert most_rps(SPACE, cost_of(1.0, tpot_ms=10.0)) == 0.0
    # Prefills may take half of the time: 25 prompts of 20 ms a second at most.
    assert most_rps(SPACE, cost_of(100.0, tpot_ms=1e6)) == pytest.approx(25.0, rel=1e-3)
    # TTFT: 20 ms of its own, and the wait for others beyond that.
    assert most_rps(SPACE, cost_of(1.0, ttft_ms=20.0)) == 0.0


def test_a_prompt_may_wait_for_others_as_long_as_its_limit_allows() -> None:
    load = only_load(SPACE, 5.0, ttft_ms=120.0)
    # At half load 90 % wait less than longest / 2 / 0.5 * ln(0.5 / 0.1): 1.609 times
    # the longest. 100 ms are left beside its own 20.
    assert load.longest_ms[0] == pytest.approx(100.0 / math.log(5.0))
    assert len(only_load(SPACE, 5.0, ttft_ms=50.0)) == 0  # its own 20 ms * 1.609


def test_a_cycle_longer_than_the_tpot_limit_is_no_point() -> None:
    assert len(only_load(TURNS, 5.0, tpot_ms=40.0)) == 0


@given(rate=st.floats(0.5, 24.0), stretch=st.floats(1.0, 4.0))
def test_more_load_takes_more_of_everything(rate: float, stretch: float) -> None:
    cost = cost_of(25.0)
    point = replace(SPACE, stretch=stretch)
    loads = loads_at(point, [(0, cost, (rate / 2.0, rate))])
    low, high = loads.takes[0], loads.takes[1]
    assert np.all(high >= low - 1e-9)
    assert loads.tpot_ms[1] >= loads.tpot_ms[0] - 1e-9


def test_an_operating_point_is_one_or_the_other() -> None:
    with pytest.raises(InputError, match="prefill_share_frac"):
        OperatingPoint(prefill_share_frac=1.0, prefill_load_frac=0.5)
    with pytest.raises(InputError, match="prefill_share_frac"):
        OperatingPoint(prefill_share_frac=0.5, prefill_load_frac=0.5, cycle_ms=50.0)


def test_an_end_to_end_limit_leaves_prefills_what_decodes_do_not_take() -> None:
    slo = {"ttft_ms": None, "tpot_ms": None, "e2e_ms": 400.0}
    loads = loads_at(SPACE, [(0, cost_of(20.0, **slo), (20.0,))])
    # All answers have 11 tokens: 10 decode steps. What they leave of 400 ms, less the
    # prompt's own 20 ms, is for prefills before it: half of one on average, twice as
    # many at a load of 50 %, and ln(0.5 / 0.1) times that at the 90 % quantile.
    left_ms = 400.0 - 10.0 * loads.tpot_ms[0] - 20.0
    assert loads.longest_ms[0] == pytest.approx(left_ms / math.log(5.0), rel=1e-6)
    tight = {**slo, "e2e_ms": 10.0 * loads.tpot_ms[0] + 20.0 + 20.0 * math.log(5.0)}
    tight["e2e_ms"] -= 1.0
    assert len(loads_at(SPACE, [(0, cost_of(20.0, **tight), (20.0,))])) == 0


def test_over_a_day_each_period_takes_what_its_rate_does() -> None:
    cost = cost_of(20.0)
    even = loads_at(SPACE, [(0, cost, (10.0, 20.0))])
    day = replace(cost, demand=replace(cost.demand, busy=(0.5, 1.0)))
    takes = loads_at(SPACE, [(0, day, (20.0,))]).takes[0]
    first, second = takes[:NUM_RESOURCES], takes[NUM_RESOURCES:]
    assert first[PREFILLS] == pytest.approx(even.takes[0, PREFILLS])
    assert second[PREFILLS] == pytest.approx(even.takes[1, PREFILLS])
    # Its SMs are its own all day, and its KV quota is that of the peak.
    assert (first[SMS], second[SMS]) == (pytest.approx(0.3), 0.0)
    assert first[MEMORY] == pytest.approx(even.takes[1, MEMORY])
    assert second[MEMORY] == 0.0
    peak = replace(cost, demand=replace(cost.demand, busy=(2.0,), rate_rps=1000.0))
    flat = replace(cost, demand=replace(cost.demand, rate_rps=1000.0))
    assert most_rps(SPACE, peak) == pytest.approx(most_rps(SPACE, flat) / 2, rel=1e-3)


def test_a_phase_alone_has_all_sms_and_only_its_own_limits() -> None:
    prefill = OperatingPoint(
        prefill_share_frac=1.0, prefill_load_frac=0.5, phase=Phase.PREFILL
    )
    decode = replace(prefill, phase=Phase.DECODE)
    many = cost_of(1000.0, ttft_ms=100.0, tpot_ms=5.0)
    # Prompts of 20 ms for half of the time; no decode step is as short as 5 ms.
    assert most_rps(prefill, many) == pytest.approx(25.0, rel=1e-3)
    assert most_rps(decode, many) == 0.0
    many = cost_of(1000.0, ttft_ms=1.0, tpot_ms=20.0)
    assert most_rps(prefill, many) == 0.0
    decoded = most_rps(decode, many)
    # The 90 % quantile of the batch takes 20 ms: 20 requests; the mean is below.
    assert 0 < decoded < 1000.0 * 20.0 / (20.0 * 10.0)
    # 10 ms for the KV cache are 1 ms of each of the 10 steps.
    slower = most_rps(decode, many, transfer_ms=10.0)
    tighter = most_rps(decode, cost_of(1000.0, ttft_ms=1.0, tpot_ms=19.0))
    assert slower == pytest.approx(tighter)


def test_no_cycle_is_shorter_than_a_step_however_seldom_there_is_one() -> None:
    # A step takes 10.5 ms: a limit of 2 ms cannot be met, whatever the load.
    hasty = replace(TURNS, cycle_ms=1.0)
    assert most_rps(hasty, cost_of(0.01, tpot_ms=2.0)) == 0.0
    assert len(only_load(hasty, 0.01, tpot_ms=2.0)) == 0
    assert only_load(hasty, 0.01).tpot_ms[0] >= 10.5
