"""Workloads: what they draw, and that comparisons share their random numbers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.fields import InputError
from planner.workload.arrivals import PoissonArrivals
from planner.workload.lengths import EmpiricalLengths, FixedLengths
from planner.workload.requests import Requests
from planner.workload.traces import TraceWarning
from planner.workload.workload import Workload

TINY_TRACE = Requests(
    arrival_ms=np.array([0.0, 1000.0, 4000.0]),
    input_tokens=np.array([10, 20, 30]),
    output_tokens=np.array([1, 2, 3]),
)
SYNTHETIC = {
    "poisson": Workload.poisson(rate_rps=3, lengths="chat"),
    "gamma": Workload.gamma(rate_rps=3, cv=2, lengths="azure-code-like"),
    "fixed_gap": Workload.fixed_gap(rate_rps=3, lengths="512x64"),
    "pool": Workload.poisson(rate_rps=3, lengths=EmpiricalLengths.of(TINY_TRACE)),
}


@pytest.mark.parametrize("workload", SYNTHETIC.values(), ids=SYNTHETIC)
@given(seed=st.integers(0, 1000), rate=st.floats(0.01, 1000), num=st.integers(1, 60))
def test_all_rates_share_lengths_and_unit_gaps(
    workload: Workload, seed: int, rate: float, num: int
) -> None:
    drawn = workload.draw(num, seed=seed, rate_rps=rate)
    at_one = workload.draw(num, seed=seed, rate_rps=1.0)
    assert len(drawn) == num
    assert drawn.arrival_ms[0] == 0
    assert (np.diff(drawn.arrival_ms) >= 0).all()
    assert min(drawn.input_tokens.min(), drawn.output_tokens.min()) >= 1
    assert drawn.input_tokens.tolist() == at_one.input_tokens.tolist()
    assert drawn.output_tokens.tolist() == at_one.output_tokens.tolist()
    np.testing.assert_allclose(drawn.arrival_ms * rate, at_one.arrival_ms, rtol=1e-12)


@pytest.mark.parametrize("workload", SYNTHETIC.values(), ids=SYNTHETIC)
def test_more_requests_begin_with_the_fewer(workload: Workload) -> None:
    few, many = workload.draw(20, seed=5), workload.draw(70, seed=5).head(20)
    assert few.arrival_ms.tolist() == many.arrival_ms.tolist()
    assert few.input_tokens.tolist() == many.input_tokens.tolist()


def test_arrivals_do_not_depend_on_lengths() -> None:
    chat = SYNTHETIC["poisson"].draw(50, seed=1)
    fixed = Workload.poisson(rate_rps=3, lengths="512x64").draw(50, seed=1)
    assert chat.arrival_ms.tolist() == fixed.arrival_ms.tolist()


def test_seeds_differ() -> None:
    draws = [SYNTHETIC["poisson"].draw(5, seed=seed) for seed in range(3)]
    assert len({tuple(drawn.input_tokens.tolist()) for drawn in draws}) == 3
    assert len({tuple(drawn.arrival_ms.tolist()) for drawn in draws}) == 3


def test_the_workloads_own_rate_is_the_default() -> None:
    # 3 requests/s: one every 333.3 ms.
    drawn = SYNTHETIC["fixed_gap"].draw(3, seed=0)
    assert drawn.arrival_ms == pytest.approx([0, 1000 / 3, 2000 / 3])


def test_a_closed_loop_has_concurrency_and_no_times() -> None:
    workload = Workload.closed_loop(concurrency=8, lengths="512x64")
    assert workload.concurrency == 8
    assert workload.mean_rate_rps is None
    assert workload.draw(20, seed=0).arrival_ms.tolist() == [0.0] * 20
    with pytest.raises(InputError, match=r"rate_rps = 2.0: expected no rate"):
        workload.draw(20, seed=0, rate_rps=2.0)


def test_a_trace_is_replayed_as_recorded_or_at_a_rate() -> None:
    workload = Workload.from_requests(TINY_TRACE)
    assert workload.draw(3, seed=0).arrival_ms.tolist() == [0, 1000, 4000]
    # 0.5 requests/s as recorded; 5 requests/s is ten times as fast.
    faster = workload.at_rate(5.0)
    assert faster.draw(3, seed=0).arrival_ms == pytest.approx([0, 100, 400])
    assert (workload.mean_rate_rps, faster.mean_rate_rps) == (0.5, 5.0)
    assert workload.mean_input_tokens == 20
    assert workload.mean_output_tokens == 2


def test_a_file_without_times_needs_a_rate(tmp_path: Path) -> None:
    file = tmp_path / "sharegpt.json"
    turns = '{"from": "human", "value": "12345678"}, {"from": "gpt", "value": "1234"}'
    file.write_text(f'[{{"id": "a", "conversations": [{turns}]}}]')
    with pytest.warns(TraceWarning), pytest.raises(InputError) as caught:
        Workload.from_trace(file)
    assert "rate_rps = None: expected a rate, since this trace has lengths" in str(
        caught.value
    )
    with pytest.warns(TraceWarning, match="characters / 4"):
        workload = Workload.from_trace(file, rate_rps=2.0)
    drawn = workload.draw(4, seed=0)
    assert drawn.input_tokens.tolist() == [2] * 4
    assert drawn.duration_ms > 0


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_rates_are_refused(rate: float) -> None:
    with pytest.raises(InputError, match=r"rate_rps = .*: expected a number > 0"):
        Workload.poisson(rate_rps=rate, lengths="chat")
    with pytest.raises(InputError, match=r"rate_rps = .*: expected a number > 0"):
        SYNTHETIC["poisson"].draw(3, seed=0, rate_rps=rate)


@pytest.mark.parametrize(
    ("num", "seed", "message"),
    [
        (0, 0, "num_requests = 0: expected a whole number >= 1"),
        (1, -1, "seed = -1: expected a whole number >= 0"),
    ],
)
def test_impossible_draws_are_refused(num: int, seed: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SYNTHETIC["poisson"].draw(num, seed=seed)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "expected a trace, or lengths and arrivals"),
        (
            {"trace": TINY_TRACE, "arrivals": PoissonArrivals()},
            "expected no lengths or arrivals beside it",
        ),
        (
            {
                "lengths": FixedLengths(input_tokens=1, output_tokens=1),
                "arrivals": PoissonArrivals(),
            },
            "rate_rps = None: expected a rate for open arrivals",
        ),
    ],
)
def test_half_a_workload_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Workload(name="half", **fields)


def test_summary_is_one_line() -> None:
    assert SYNTHETIC["fixed_gap"].summary == (
        "512x64: 3 requests/s, mean 512 input and 64 output tokens"
    )
    assert "0.5 requests/s as recorded" in Workload.from_requests(TINY_TRACE).summary
    loop = Workload.closed_loop(concurrency=8, lengths="512x64")
    assert "8 requests at a time" in loop.summary
