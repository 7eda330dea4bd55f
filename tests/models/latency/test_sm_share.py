"""Slowdown on a share of the SMs: MuxServe's measurements and what lies between."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.fields import InputError
from models.latency.sm_share import ShareSlowdowns, StepPhase, load_share_table
from models.llm import LlmSpec

EFFECT = Path(__file__).parents[4] / "shared/reference/muxserve/sm_effect.json"
TINY = ShareSlowdowns(
    llm="llama-7b",
    tp=1,
    phase=StepPhase.DECODE,
    share_frac=(0.25, 0.5, 1.0),
    num_requests=(1.0, 16.0),
    slowdown=((1.5, 1.1, 1.0), (2.5, 1.5, 1.0)),
)


def test_measured_shares_and_batches_are_met() -> None:
    assert TINY.at(0.5) == 1.1
    assert TINY.at(0.25, num_requests=16) == 2.5
    assert TINY.at(1.0, num_requests=7) == 1.0


def test_between_them_it_is_linear_in_the_inverse_share_and_the_log_of_the_batch() -> (
    None
):
    # 1/share = 3 is half-way from 2 (slowdown 1.1) to 4 (1.5).
    assert TINY.at(1 / 3) == pytest.approx(1.3)
    # A batch of 4 is half-way from 1 to 16: (1.1 + 1.5) / 2.
    assert TINY.at(0.5, num_requests=4) == pytest.approx(1.3)


def test_beyond_them_compute_bounds_and_the_last_batch_holds() -> None:
    assert TINY.at(0.125) == pytest.approx(3.0)
    assert TINY.at(0.5, num_requests=1000) == 1.5


@given(
    entry=st.sampled_from(load_share_table().slowdowns),
    share=st.floats(0.01, 1.0),
    more=st.floats(1.0, 4.0),
    requests=st.integers(1, 2000),
)
def test_more_sms_never_slow_a_step(
    entry: ShareSlowdowns, share: float, more: float, requests: int
) -> None:
    wider = min(1.0, share * more)
    narrow = entry.at(share, num_requests=requests)
    assert narrow >= entry.at(wider, num_requests=requests) - 1e-9
    assert narrow >= 1.0


def test_a_measured_model_answers_for_itself_and_for_its_like() -> None:
    table = load_share_table()
    own = table.of(LlmSpec.load("llama-13b"), 2, StepPhase.PREFILL)
    assert (own.llm, own.tp, own.phase) == ("llama-13b", 2, StepPhase.PREFILL)
    # OPT-66B on 4 GPUs holds as much a GPU as LLaMA-65B on 4.
    like = table.of(LlmSpec.load("opt-66b"), 4, StepPhase.DECODE)
    assert (like.llm, like.tp) == ("llama-65b", 4)


def test_decode_loses_less_than_prefill_on_half_of_the_sms() -> None:
    table, llm = load_share_table(), LlmSpec.load("llama-7b")
    decode = table.of(llm, 1, StepPhase.DECODE).at(0.5, num_requests=8)
    prefill = table.of(llm, 1, StepPhase.PREFILL).at(0.5, num_requests=8)
    # Half of the SMs is the cheap point of decode (about 12 %) and two thirds more for
    # a prefill of 1024 tokens.
    assert decode == pytest.approx(1.11, abs=0.03)
    assert prefill == pytest.approx(1.65, abs=0.05)


@pytest.mark.skipif(not EFFECT.exists(), reason="no reference data")
def test_an_independent_summary_of_the_table_agrees() -> None:
    effects = json.loads(EFFECT.read_text())["ratios"]
    table, compared = load_share_table(), 0
    for entry in table.slowdowns:
        by_share = effects.get(f"{entry.llm}_tp{entry.tp}", {}).get(str(entry.phase))
        for percent, (median, least, most, _) in (by_share or {}).items():
            ours = entry.at(int(percent) / 100, num_requests=8)
            assert least * 0.9 <= ours <= most * 1.1, (entry.llm, entry.tp, percent)
            compared += abs(ours / median - 1) < 0.1
    assert compared > 100


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_an_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="sm_share_frac"):
        TINY.at(share)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"share_frac": (0.5, 0.25, 1.0)}, "share_frac"),
        ({"share_frac": (0.25, 0.5, 0.9)}, "share_frac"),
        ({"num_requests": (0.0, 1.0)}, "num_requests"),
        ({"slowdown": ((1.5, 1.1, 1.0),)}, "slowdown"),
        ({"slowdown": ((1.5, 1.1, 1.0), (1.5, 1.6, 1.0))}, "slowdown"),
        ({"slowdown": ((1.5, 1.1, 1.0), (1.5, 1.1, 1.05))}, "slowdown"),
    ],
)
def test_impossible_tables_are_refused(changes: dict[str, object], key: str) -> None:
    with pytest.raises(InputError, match=key):
        replace(TINY, **changes)
