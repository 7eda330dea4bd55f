"""Popularity in a problem file: rates and days of all services in a few numbers."""

from typing import Any

import pytest

from clusters.fields import InputError
from clusters.mapping import to_mapping
from planner.multiplexing.popularity_file import with_rates
from planner.multiplexing.problem import SharedProblem

SLO = {"ttft_ms": 1000, "tpot_ms": 60}


def data(*, services: int = 3, **popularity: Any) -> dict[str, Any]:
    return {
        "cluster": "a100_1x4",
        "popularity": {"alpha": 1.0, "total_rps": 11.0, **popularity},
        "services": [
            {
                "name": f"s{i}",
                "llm": "llama-2-7b",
                "workload": {"lengths": "161x200"},
                "slo": SLO,
            }
            for i in range(services)
        ],
    }


def test_rates_fall_with_the_place_and_add_up() -> None:
    problem = SharedProblem.of_mapping(data())
    # 1 + 1/2 + 1/3 = 11/6 parts of 6 requests/s.
    rates = [service.workload.rate_rps for service in problem.services]
    assert rates == pytest.approx([6.0, 3.0, 2.0])
    again = SharedProblem.of_mapping(to_mapping(problem))
    assert to_mapping(again) == to_mapping(problem)


def test_peaks_are_at_once_or_opposite() -> None:
    together = SharedProblem.of_mapping(data(services=2, peak_to_mean=1.8))
    assert [demand.busy for demand in together.demands] == [
        (pytest.approx(1.8, rel=0.01),)
    ] * 2
    apart = SharedProblem.of_mapping(
        data(services=2, peak_to_mean=1.8, spread_frac=1.0)
    )
    one, other = (demand.busy for demand in apart.demands)
    # Twelve hours up and down: what the one has more than the mean, the other has less.
    assert len(one) == 12
    assert [a + b for a, b in zip(one, other, strict=True)] == pytest.approx([2.0] * 12)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"alpha": -1.0}, "popularity.alpha"),
        ({"total_rps": 0}, "popularity.total_rps"),
        ({"peak_to_mean": 2.5}, "popularity.peak_to_mean"),
        ({"spread_frac": 2.0}, "popularity.spread_frac"),
        ({"spred_frac": 1.0}, "spread_frac"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        SharedProblem.of_mapping(data(**changes))


def test_a_rate_is_given_once() -> None:
    twice = data()
    twice["services"][1]["workload"]["rate_rps"] = 3.0
    with pytest.raises(InputError, match=r"services\[1\].workload.rate_rps"):
        with_rates(twice)
    arrivals = data(peak_to_mean=1.5)
    arrivals["services"][0]["workload"]["arrivals"] = "poisson"
    with pytest.raises(InputError, match=r"services\[0\].workload.arrivals"):
        with_rates(arrivals)
