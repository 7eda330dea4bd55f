"""What the greedy asks of units: shares decided alone, then the load together."""

import pytest

from models.latency.contention import SmSharing
from planner.multiplexing.estimate import StandaloneShares
from planner.multiplexing.meshes import MeshKind
from planner.slo import Slo
from tests.planner.multiplexing.tiny_shared import model_of, tiny_shared

ONE = MeshKind(gpu_type="tiny", num_gpus=1)


@pytest.fixture
def heavy_gpu_part(monkeypatch):
    """All of the tiny latencies is GPU work, so that shares of the SMs matter."""
    slow = SmSharing(
        memory_frac=1e-9, arithmetic_frac=1e-9, memory_scale=0.3, arithmetic_scale=1.3
    )
    monkeypatch.setattr(SmSharing, "published", classmethod(lambda cls: slow))


def test_the_share_is_the_smallest_that_serves_the_rate() -> None:
    model = model_of(tiny_shared(1.0))
    assert StandaloneShares(model, (1.0,)).share(0, ONE) == 0.3


@pytest.mark.usefixtures("heavy_gpu_part")
def test_where_none_serves_the_rate_it_is_the_one_that_serves_most() -> None:
    model = model_of(tiny_shared(60.0, slo=Slo(ttft_ms=2000.0, tpot_ms=18.0)))
    assert StandaloneShares(model, (1.0,)).share(0, ONE) == 0.4


def test_a_unit_is_worth_its_load_and_no_more_than_its_llms_alone() -> None:
    model = model_of(tiny_shared(4.0, 2.0))
    estimate = StandaloneShares(model, (1.0, 10.0))
    alone = [estimate.value(ONE, (llm,)) for llm in (0, 1)]
    assert alone == pytest.approx([4.0, 20.0])
    assert estimate.value(ONE, (0, 1)) == pytest.approx(24.0)
    assert estimate.value(ONE, (1, 0)) == estimate.value(ONE, (0, 1))


def test_shares_that_do_not_fit_together_leave_turns_or_nothing() -> None:
    model = model_of(tiny_shared(1.0, 1.0, 1.0))
    # 0.3 each and 0.3 for prefills are more than all SMs: only in turns.
    column = StandaloneShares(model, (1.0,) * 3).column(ONE, (0, 1, 2))
    assert model.unit(column).cycle_ms is not None
