"""Costs by layers held: typical rates by hand, tables and room of real machines."""

import pytest

from clusters.fields import InputError
from clusters.gpu import GpuType
from models.latency.library import LatencyLibrary
from models.llm import LlmSpec
from planner.pipelines.costs import (
    CostedFleet,
    MachineCosts,
    TypicalLoad,
    machine_costs,
    mean_layer_ms,
    rates_in_mix,
    typical_rates,
)
from tests.planner.pipelines.tiny_fleets import equal_requests, flat_step, tiny_fleet

LOAD = TypicalLoad(input_tokens=30, output_tokens=10, fill_frac=0.5)


def test_a_request_costs_its_prompt_and_its_part_of_the_batches():
    # A prompt step of 20 ms, and 10 decodes in batches of 5 of 8 ms: 20 + 10 / 5 * 8.
    assert LOAD.request_ms(flat_step(20.0, 8.0), 5.0) == pytest.approx(36.0)


def test_rates_follow_from_the_batch_that_fits_the_round_trip():
    # One of two layers, both as slow here as elsewhere: half of the round trip. Room
    # for 800 tokens is 20 requests, half full 10, half of them here: a batch of 5.
    costs = MachineCosts(steps=(flat_step(20.0, 8.0),), kv_tokens=(800,))
    (rate,) = rates_in_mix(costs, 2, LOAD, 1.0, 1.0)
    # 40 tokens take 36 ms.
    assert rate == pytest.approx(40 / 0.036)


def test_the_mean_layer_is_weighted_by_layers_held():
    # 2 x 3 layers of 1 ms and 1 x 2 layers of 5 ms: (6 + 10) / 8.
    mean = mean_layer_ms({"a": 1.0, "b": 5.0}, {"a": 2, "b": 1}, {"a": 3, "b": 2})
    assert mean == pytest.approx(2.0)


def test_typical_rates_settle():
    costs = {
        "a": MachineCosts(
            steps=tuple(flat_step(20.0 * k, 8.0 * k) for k in (1, 2)),
            kv_tokens=(800, 400),
        )
    }
    rates = typical_rates(costs, {"a": 2}, 2, LOAD)
    # All machines are alike, so a layer takes the same anywhere: as in the mix above.
    assert rates["a"] == pytest.approx(rates_in_mix(costs["a"], 2, LOAD, 1.0, 1.0))


def test_a_real_machine_holds_what_its_memory_does():
    # Llama-2-70B has 80 layers of 1.71 GB in fp16; a 24 GB L4 holds about ten.
    gpu, llm = GpuType.load("l4"), LlmSpec.load("llama-2-70b")
    costs = machine_costs(LatencyLibrary.default(), llm, gpu)
    assert costs is not None
    assert 8 <= costs.max_layers <= 12
    one, two = costs.steps[0], costs.steps[1]
    # Twice the layers take about twice the time, and leave less room for KV.
    ratio = two.decode_step_ms(8, 8000) / one.decode_step_ms(8, 8000)
    assert ratio == pytest.approx(2.0, rel=0.05)
    assert list(costs.kv_tokens) == sorted(costs.kv_tokens, reverse=True)


def test_a_layer_that_does_not_fit_has_no_costs():
    gpu, llm = GpuType.load("t4"), LlmSpec.load("llama-3.1-405b")
    # A layer of 405B is 6.4 GB; the embeddings of the first stage fill the rest.
    assert machine_costs(LatencyLibrary.default(), llm, gpu) is None


def test_a_fleet_needs_costs_of_all_its_kinds():
    fleet = tiny_fleet([("a", (9.0, 5.0))], 2)
    costs = MachineCosts(steps=(flat_step(1.0, 1.0),), kv_tokens=(1,))
    with pytest.raises(InputError, match=r"costs\.a"):
        CostedFleet(fleet=fleet, costs={"a": costs})


def test_the_load_of_requests_is_their_mean():
    load = TypicalLoad.of(equal_requests(10, 4))
    assert (load.input_tokens, load.output_tokens, load.tokens) == (10.0, 4.0, 14.0)
