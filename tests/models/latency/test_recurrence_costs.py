"""Linear attention: chains of chunks, rates and states by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.gpu import GpuType
from models.flops import stage_shapes
from models.latency.recurrence_costs import RecurrenceRates, decode_ms, prefill_ms
from models.llm import LlmSpec
from models.parallelism import Parallelism
from models.recurrence import RecurrenceShape

# One GPU of Qwen3.5-397B at TP8: 2 key and 8 value heads of 128.
SHAPE = RecurrenceShape(
    num_key_heads=2,
    num_value_heads=8,
    key_dim=128,
    value_dim=128,
    conv_kernel=4,
    state_element_bytes=4.0,
)
H200 = GpuType.load("h200_sxm")
PEAK = 989e12


def rates(engine: str = "") -> RecurrenceRates:
    return RecurrenceRates.of(H200, peak_flops_per_s=PEAK, engine=engine)


def test_a_state_by_hand() -> None:
    # 8 heads of 128 x 128 in fp32, and 3 inputs of 2 x 2 x 128 + 8 x 128 channels.
    assert SHAPE.matrix_bytes == 8 * 128 * 128 * 4
    assert SHAPE.state_bytes == SHAPE.matrix_bytes + 3 * 1536 * 2


def test_a_chunk_by_hand() -> None:
    # A token of a chunk of 64: K Kᵀ, Q Kᵀ, T K on 128 wide keys, T V and P V on 128
    # wide values, three products with the state; 2 FLOPs each, 8 heads.
    per_head = 64 * (3 * 128 + 2 * 128) + 3 * 128 * 128
    assert SHAPE.prefill_flops_per_token == 2 * 8 * per_head


def test_a_decode_step_moves_the_state_twice() -> None:
    one, many = (float(rates().decode_ms(SHAPE, np.asarray(n))) for n in (1.0, 1001.0))
    moved = 1000 * (2 * SHAPE.state_bytes + SHAPE.token_bytes)
    assert many - one == pytest.approx(moved / (0.75 * 4.8e12) * 1e3)


@pytest.mark.parametrize(
    ("engine", "requests", "measured_ms"),
    [
        # Tables gdn_perf of aiconfigurator-core 0.12.0, H200: recurrence and
        # convolution of 64 value and 16 key heads.
        ("sglang", 8, 0.016599 + 0.002125),
        ("sglang", 64, 0.140588 + 0.006264),
        ("vllm", 128, 0.270309 + 0.008540),
    ],
)
def test_decode_is_near_the_measured_kernels(
    engine: str, requests: int, measured_ms: float
) -> None:
    whole = replace(SHAPE, num_key_heads=16, num_value_heads=64)
    ours = float(rates(engine).decode_ms(whole, np.asarray(float(requests))))
    assert ours == pytest.approx(measured_ms, rel=0.35)


@pytest.mark.parametrize(
    ("engine", "tokens", "measured_ms"),
    [
        # The same tables, one prompt, 8 value and 2 key heads: without convolution.
        ("sglang", 1024, 0.059627),
        ("sglang", 8192, 0.300856),
        ("vllm", 1024, 0.059191),
        ("vllm", 8192, 0.416933),
    ],
)
def test_prefill_is_near_the_measured_kernels(
    engine: str, tokens: int, measured_ms: float
) -> None:
    ours = float(rates(engine).prefill_ms(SHAPE, np.asarray(float(tokens))))
    assert ours == pytest.approx(measured_ms, rel=0.35)


@given(
    llm=st.sampled_from(["qwen3.5-397b-a17b", "qwen3.5-27b", "qwen3.5-35b-a3b"]),
    tp=st.sampled_from([1, 2, 4, 8]),
    engine=st.sampled_from(["", "vllm", "sglang", "trtllm"]),
    gpu=st.sampled_from(["a100_sxm", "h200_sxm", "b200_sxm", "mi300x"]),
)
def test_more_work_never_takes_less_time(
    llm: str, tp: int, engine: str, gpu: str
) -> None:
    kind = GpuType.load(gpu)
    (stage,) = stage_shapes(LlmSpec.load(llm), Parallelism(tp=tp))
    fast = RecurrenceRates.of(kind, peak_flops_per_s=300e12, engine=engine)
    sizes = np.asarray([1.0, 2.0, 64.0, 1000.0, 1e5])
    for cost in (prefill_ms, decode_ms):
        times = cost(stage.groups, sizes, fast)
        assert (np.diff(times) > 0).all()
        assert np.isfinite(times).all()


def test_a_model_without_states_costs_nothing() -> None:
    (stage,) = stage_shapes(LlmSpec.load("opt-13b"), Parallelism())
    tokens = np.asarray([1.0, 100.0])
    assert (prefill_ms(stage.groups, tokens, rates()) == 0).all()
    assert (decode_ms(stage.groups, tokens, rates()) == 0).all()
