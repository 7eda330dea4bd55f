"""Shared problems: what is refused, in one line each."""

from dataclasses import replace

import pytest

from clusters.fields import InputError
from planner.simulator.prefix_settings import PrefixCache
from planner.slo import Slo
from planner.workload.workload import Workload
from tests.planner.multiplexing.tiny_shared import tiny_shared


def test_demands_are_means() -> None:
    (demand,) = tiny_shared(3.0).demands
    assert (demand.name, demand.rate_rps) == ("a", 3.0)
    assert (demand.input_tokens, demand.output_tokens) == (100.0, 11.0)
    assert (demand.decode_steps, demand.context_tokens) == (10.0, 105.5)


def test_names_must_differ() -> None:
    problem = tiny_shared(1.0, 1.0)
    twice = (problem.services[0], replace(problem.services[1], name="a"))
    with pytest.raises(InputError, match=r"services\[1\].name = 'a'"):
        replace(problem, services=twice)


def test_a_closed_loop_or_no_rate_is_refused() -> None:
    problem = tiny_shared(1.0)
    loop = Workload.closed_loop(concurrency=4, lengths="100x11")
    services = (replace(problem.services[0], workload=loop),)
    with pytest.raises(InputError, match=r"services\[0\].workload.rate_rps"):
        replace(problem, services=services)
    with pytest.raises(InputError, match="rate_rps"):
        Workload.poisson(rate_rps=0.0, lengths="100x11")


def test_an_end_to_end_limit_bounds_both_phases() -> None:
    (demand,) = tiny_shared(1.0, slo=Slo(e2e_ms=500.0, tpot_ms=80.0)).demands
    # All answers have 11 tokens: 10 steps of at most 50 ms.
    assert demand.long_steps == 10.0
    assert (demand.ttft_limit_ms, demand.tpot_limit_ms) == (500.0, 50.0)
    (demand,) = tiny_shared(1.0, slo=Slo(e2e_ms=500.0, tpot_ms=30.0)).demands
    assert demand.tpot_limit_ms == 30.0


def test_prefix_caches_are_refused() -> None:
    problem = tiny_shared(1.0)
    cached = replace(problem.services[0], prefix_cache=PrefixCache())
    with pytest.raises(InputError, match=r"services\[0\].prefix_cache"):
        replace(problem, services=(cached,))


def test_no_service_is_refused() -> None:
    with pytest.raises(InputError, match="services"):
        tiny_shared()
