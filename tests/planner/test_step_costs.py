"""Step costs: least times of a request on a stage, by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from models.latency.mixed_extra import MixedExtra
from models.latency.step_table import StepTable
from planner.slo import Slo
from planner.step_costs import (
    decode_cost,
    largest_prefill,
    lower_hull,
    prefill_cost_ms,
)
from tests.planner.simulator.systems import tiny_table
from tests.planner.test_capacity import requests_of


def test_prefill_costs_least_in_the_largest_batch():
    # 10 + 0.1 * x is cheapest a token at 500 tokens: 60 / 500 = 0.12 ms.
    stage = tiny_table(prefill_ms=10.0, per_prompt_token_ms=0.1)
    cost = prefill_cost_ms(stage, requests_of([100, 300], [1, 1]), 500)
    assert cost == pytest.approx(0.12 * 200)


def test_a_prompt_longer_than_the_batch_runs_alone():
    stage = tiny_table(prefill_ms=10.0, per_prompt_token_ms=0.1)
    cost = prefill_cost_ms(stage, requests_of([1000], [1]), 500)
    assert cost == pytest.approx(110.0)


def test_decode_costs_least_in_the_largest_batch():
    # Three steps each; 8 ms for up to four: 2 ms a token. Attended 11 + 12 + 13 tokens.
    stage = tiny_table(decode_ms=8.0, per_kv_token_ms=0.5)
    cost = decode_cost(stage, requests_of([10], [4]), 4).at_ms(math.inf)
    assert cost == pytest.approx(3 * 2.0 + 36 * 0.5)


def test_the_kv_cache_limits_the_mean_batch():
    # Three tokens attend to 11, 12 and 13; a cache of 24 tokens holds two such requests
    # on average (mean 12), so a token costs half a step, not a quarter.
    stage = tiny_table(decode_ms=8.0)
    requests = requests_of([10], [4])
    assert decode_cost(stage, requests, 4, kv_tokens=24).at_ms(
        math.inf
    ) == pytest.approx(3 * 4.0)
    # Room for 2.4: between halves and thirds, linear in 1/B.
    cost = decode_cost(stage, requests, 4, kv_tokens=28.8).at_ms(math.inf)
    assert cost == pytest.approx(3 * 8.0 / 2.4)


def test_decodes_that_ride_with_prompts_cost_a_prompt_token_and_their_row():
    # F = 6 + 0.1 x and G = 8: alone four share 8 ms; riding each costs 0.2 ms and a
    # quarter of 8 - 6.4 ms.
    stage = tiny_table(prefill_ms=6.0, per_prompt_token_ms=0.1, decode_ms=8.0)
    requests = requests_of([10], [2])
    cost = decode_cost(stage, requests, 4, prompt_token_ms=0.2)
    assert cost.at_ms(math.inf) == pytest.approx(0.2 + 1.6 / 4)


def test_riding_decodes_cost_what_mixed_steps_were_measured_to_take():
    # As before; measured: four decodes add 0.8 ms less than 1.6, and squares cost half.
    extra = MixedExtra(
        per_sq_token_ms=-0.005, batch=(1.0,), ms=(-0.8,), per_kv_token_ms=(0.0,)
    )
    stage = tiny_table(prefill_ms=6.0, per_prompt_token_ms=0.1, decode_ms=8.0)
    stage = replace(stage, prefill_per_sq_token_ms=0.01, mixed=extra)
    requests = requests_of([10], [2])
    cost = decode_cost(stage, requests, 4, prompt_token_ms=0.2)
    assert cost.at_ms(math.inf) == pytest.approx(0.2 + 0.8 / 4)
    # F(10)/10 = 0.7 ms a token, and 100 squares of 0.005 ms.
    assert prefill_cost_ms(stage, requests, 10) == pytest.approx(7.5)


def test_a_tpot_limit_forbids_large_batches():
    # Steps of B requests take 10 + 10 B: 20 ms alone, (10 + 20) / 2 = 15 ms each in
    # pairs, (10 + 30) / 3 in threes. Half the tokens alone, half in pairs: 25 ms steps.
    stage = StepTable(
        prefill_tokens=(0.0,),
        prefill_ms=(0.0,),
        decode_batch=(0.0, 3.0),
        decode_ms=(10.0, 40.0),
        decode_per_kv_token_ms=(0.0, 0.0),
    )
    slo = Slo(tpot_ms=30.0, attainment_frac=1)
    cost = decode_cost(stage, requests_of([1], [2]), 3, slo)
    assert cost.at_ms(30.0) == pytest.approx(15.0)
    assert cost.at_ms(25.0) == pytest.approx(17.5)
    assert cost.step_ms(17.5) == pytest.approx(25.0)
    assert cost.shortest_step_ms == 20.0
    assert math.isinf(cost.step_ms(10.0))  # no step is that cheap


def test_hull_is_convex_and_falls():
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([8.0, 7.0, 2.0, 5.0])
    assert lower_hull(x, y) == ((1.0, 3.0), (8.0, 2.0))  # (2, 7) lies above


def test_good_prompts_share_only_steps_that_are_short_enough():
    # F = 10 + 0.1 x: at most 400 tokens in 50 ms, at 50 / 400 = 0.125 ms a token.
    stage = tiny_table(prefill_ms=10.0, per_prompt_token_ms=0.1)
    assert largest_prefill((stage,), 50.0) == pytest.approx(400.0)
    assert largest_prefill((stage, stage), 50.0) == pytest.approx(150.0)
    assert largest_prefill((stage,), 9.0) == 0.0
    requests = requests_of([100, 300], [1, 1])
    slo = Slo(ttft_ms=50.0, attainment_frac=0.5)
    cost = prefill_cost_ms(stage, requests, 1000, slo, good_tokens=400.0)
    # The longer one may miss, in a step of 1000 tokens: 0.11 ms a token.
    assert cost == pytest.approx((100 * 0.125 + 300 * 0.11) / 2)
    strict = Slo(ttft_ms=50.0, attainment_frac=1)
    assert math.isinf(prefill_cost_ms(stage, requests, 1000, strict, good_tokens=200.0))


def test_the_requests_that_may_miss_are_taken_to_be_the_longest():
    stage = StepTable(
        prefill_tokens=(0.0,),
        prefill_ms=(0.0,),
        decode_batch=(0.0, 100.0),
        decode_ms=(10.0, 60.0),
        decode_per_kv_token_ms=(0.0, 0.0),
    )
    # Nine requests of one step and one of 91. Within 10.5 ms a step holds one request,
    # otherwise 256 share 10 + 128 ms. One request of ten may miss: the longest.
    requests = requests_of([1] * 10, [2] * 9 + [92])
    cost = decode_cost(stage, requests, 256, Slo(tpot_ms=10.5)).at_ms(10.5)
    assert cost == pytest.approx(10 * (0.09 * 10.5 + 0.91 * 138 / 256))
    slo = Slo(tpot_ms=10.5, attainment_frac=1)
    strict = decode_cost(stage, requests, 256, slo)
    assert strict.at_ms(10.5) == pytest.approx(10 * 10.5)
    assert math.isinf(strict.at_ms(10.0))
