"""Predicted and measured are compared on the same requests, number by number."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from clusters.fields import InputError
from models.latency.step_table import StepTable
from planner.simulator.simulate import simulate
from planner.simulator.system import BatchLimits, ServingSystem
from planner.slo import Slo
from planner.validation import (
    Compared,
    capacity_rps,
    clipped,
    compare,
    draw_requests,
    engine_system,
    rough_capacity_rps,
    worst_error_frac,
)
from planner.workload.requests import Requests
from planner.workload.traces import read_trace

HEAD = Path(__file__).parents[2] / "examples/traces/azure_conversation_head.csv"

# A prefill step takes 10 ms, a decode step 5 ms, whatever is in it.
TABLE = StepTable(
    prefill_tokens=(1.0,),
    prefill_ms=(10.0,),
    decode_batch=(1.0,),
    decode_ms=(5.0,),
    decode_per_kv_token_ms=(0.0,),
)


@dataclass
class Times:
    """What an engine measured."""

    ttft_ms: np.ndarray
    tpot_ms: np.ndarray


def system(*, max_num_seqs: int = 1) -> ServingSystem:
    limits = BatchLimits(max_num_seqs=max_num_seqs)
    return engine_system(TABLE, limits, kv_capacity_tokens=100_000)


def test_capacity_of_one_slot_is_one_over_its_service_time() -> None:
    # 10 ms of prefill and 8 more tokens of 5 ms: 50 ms a request.
    found = capacity_rps(system(), "16x9", seed=0, max_context=64)
    assert found == pytest.approx(20.0, rel=0.01)


def test_errors_are_predicted_over_measured() -> None:
    requests = draw_requests("16x9", 50, rate_rps=1.0, seed=0, max_context=64)
    predicted = simulate(system(max_num_seqs=8), requests)
    level = compare(
        predicted,
        Times(predicted.ttft_ms * 1.25, predicted.tpot_ms * 0.8),
        slo=Slo(ttft_ms=1e6, tpot_ms=1e6),
        policy="prefill_first",
        load_frac=0.5,
        rate_rps=1.0,
    )
    by_name = {row.name: row.error_frac for row in level.compared}
    assert by_name["ttft p90"] == pytest.approx(1 / 1.25 - 1)
    assert by_name["tpot p50"] == pytest.approx(1 / 0.8 - 1)
    assert by_name["goodput"] == 0.0
    assert worst_error_frac([level], "ttft p50", "tpot p50") == pytest.approx(0.25)


def test_requests_never_answered_miss_the_slo_and_are_told() -> None:
    requests = draw_requests("16x9", 10, rate_rps=1.0, seed=0, max_context=64)
    predicted = simulate(system(), requests)
    ttft, tpot = predicted.ttft_ms.copy(), predicted.tpot_ms.copy()
    ttft[5:], tpot[5:] = np.nan, np.nan
    level = compare(
        predicted,
        Times(ttft, tpot),
        slo=Slo(ttft_ms=1e6, tpot_ms=1e6),
        policy="prefill_first",
        load_frac=0.5,
        rate_rps=2.0,
    )
    assert not level.is_complete
    (goodput,) = (row for row in level.compared if row.name == "goodput")
    assert (goodput.predicted, goodput.measured) == (2.0, 1.0)


def test_number_that_was_never_measured_has_no_error() -> None:
    row = Compared(name="ttft p50", unit="ms", predicted=1.0, measured=None)
    assert row.error_frac is None


def test_long_requests_are_cut_to_a_slot() -> None:
    requests = Requests(
        arrival_ms=np.zeros(2),
        input_tokens=np.array([1000, 10]),
        output_tokens=np.array([1000, 10]),
    )
    cut = clipped(requests, max_context_tokens=100)
    # Three quarters for the prompt, the rest for the answer.
    assert cut.input_tokens.tolist() == [75, 10]
    assert cut.output_tokens.tolist() == [25, 10]


def test_rough_capacity_counts_each_request_in_a_full_batch() -> None:
    requests = Requests(
        arrival_ms=np.zeros(2),
        input_tokens=np.array([16, 16]),
        output_tokens=np.array([9, 9]),
    )
    # 10 ms of prefill, and 8 steps of 5 ms shared by 4: 20 ms a request.
    found = rough_capacity_rps(TABLE, BatchLimits(max_num_seqs=4), requests)
    assert found == pytest.approx(50.0)


def test_lengths_may_be_those_of_a_trace() -> None:
    """The shipped head of the Azure conversation trace, dealt without repetition."""
    drawn = draw_requests(str(HEAD), 1000, rate_rps=1.0, seed=0, max_context=100_000)
    recorded = read_trace(HEAD)
    for name in ("input_tokens", "output_tokens"):
        assert sorted(getattr(drawn, name)) == sorted(getattr(recorded, name))
    with pytest.raises(InputError, match="a preset or INPUTxOUTPUT"):
        draw_requests("azure", 9, rate_rps=1.0, seed=0, max_context=64)
    with pytest.raises(InputError, match=r"missing\.csv"):
        draw_requests("missing.csv", 9, rate_rps=1.0, seed=0, max_context=64)
