"""Operators of one knot: ideal times by hand, monotone curves."""

import numpy as np
import pytest

from clusters.links import LinkKind
from models.latency.operators.attention import AttentionModel, HeadFormat
from models.latency.operators.collective import CollectiveModel
from models.latency.operators.elementwise import ElementwiseModel
from models.latency.operators.gemm import GemmModel, GemmShape, Peaks
from models.latency.operators.moe import ExpertShape, MoeModel
from models.latency.operators.surface import Axis, Surface
from models.latency.operators.tokens import TOKEN_KNOTS

# 1 GB/ms and 1 GFLOP/ms, so that times are sizes.
PEAKS = Peaks(memory_bytes_per_s=1e12, flops_per_s=1e12)


def flat(*names: str, log_slowdown: float = 0.0) -> Surface:
    """The same slowdown everywhere."""
    axes = tuple(Axis(name=name, knots=(1.0,)) for name in names)
    return Surface(axes=axes, log_slowdown=(log_slowdown,))


def at(tokens: int, curve: np.ndarray) -> float:
    """Value of a curve over `TOKEN_KNOTS` at one of them."""
    return float(curve[TOKEN_KNOTS.tolist().index(tokens)])


def test_a_small_product_streams_its_weights() -> None:
    model = GemmModel(floor_ms=1e-6, surface=flat("tokens", "n", "k"))
    shape = GemmShape(k=1000, n=1000, bytes_per_weight=1000.0)
    # 1 token: 1e9 B of weights = 1 ms; 2e6 FLOP and 4 kB of rows are nothing.
    assert at(1, model.ms(shape, PEAKS)) == pytest.approx(1.0, rel=1e-3)


def test_a_large_product_does_its_flops() -> None:
    model = GemmModel(floor_ms=1e-6, surface=flat("tokens", "n", "k"))
    shape = GemmShape(k=1000, n=1000, bytes_per_weight=2.0)
    # 262144 tokens: 2 * 262144e6 FLOP = 524 ms; rows 1.05 GB = 1 ms.
    assert at(262144, model.ms(shape, PEAKS)) == pytest.approx(524.288, rel=1e-3)


def test_a_slowdown_multiplies_the_ideal_time() -> None:
    shape = GemmShape(k=1000, n=1000, bytes_per_weight=2.0)
    names = ("tokens", "n", "k")
    plain = GemmModel(floor_ms=1e-3, surface=flat(*names)).ms(shape, PEAKS)
    slow = GemmModel(floor_ms=1e-3, surface=flat(*names, log_slowdown=np.log(2.0)))
    assert slow.ms(shape, PEAKS) == pytest.approx(2.0 * plain)


def test_a_product_never_gets_faster_with_tokens() -> None:
    surface = Surface(
        axes=(
            Axis(name="tokens", knots=(1.0, 64.0, 128.0)),
            Axis(name="n", knots=(1.0,)),
            Axis(name="k", knots=(1.0,)),
        ),
        log_slowdown=(0.0, 3.0, 0.0),  # twenty times slower at 64 tokens only
    )
    model = GemmModel(floor_ms=1e-3, surface=surface)
    curve = model.ms(GemmShape(k=512, n=512, bytes_per_weight=2.0), PEAKS)
    assert (np.diff(curve) >= 0).all()


def test_causal_prefill_attention_does_half_of_the_pairs() -> None:
    heads = HeadFormat(head_dim=100.0, kv_bytes=2.0, peaks=PEAKS, floor_ms=1e-9)
    # One prompt of 999 tokens, 10 heads: 999 * 1000 / 2 pairs of 4 * 100 * 10 FLOP.
    time = heads.prefill_ms(np.asarray(999.0), np.asarray(10.0), 1.0)
    assert float(time) == pytest.approx(1.998, rel=1e-3)


def test_a_window_caps_what_a_token_attends_to() -> None:
    windowed = HeadFormat(
        head_dim=100.0, kv_bytes=2.0, peaks=PEAKS, floor_ms=1e-9, window=100
    )
    # 100 * 101 / 2 pairs to fill the window, then 900 tokens of 100 each: 95 050.
    time = windowed.prefill_ms(np.asarray(1000.0), np.asarray(1000.0), 1.0)
    assert float(time) == pytest.approx(95_050 * 4e5 / 1e9, rel=1e-2)


def test_a_chunk_attends_to_the_tokens_before_it() -> None:
    heads = HeadFormat(head_dim=100.0, kv_bytes=2.0, peaks=PEAKS, floor_ms=1e-9)
    at_once = heads.prefill_ms(np.asarray(2000.0), np.asarray(10.0), 8.0)
    first = heads.prefill_ms(np.asarray(1000.0), np.asarray(10.0), 8.0)
    second = heads.prefill_ms(np.asarray(1000.0), np.asarray(10.0), 8.0, past=1000.0)
    # Pairs: 1000 * 1001 / 2 and 1000 * 1001 / 2 + 1e6 add up to 2000 * 2001 / 2.
    assert float(first + second) == pytest.approx(float(at_once), rel=1e-3)


def test_decode_attention_reads_the_cache_once() -> None:
    heads = HeadFormat(head_dim=100.0, kv_bytes=2.0, peaks=PEAKS, floor_ms=1e-9)
    # 10 requests * 5000 tokens * 2 * 8 heads * 100 * 2 B = 160 MB = 0.16 ms; with one
    # query head a K/V head 4 * 8 * 100 FLOP a token are as many: the 4-norm of the two.
    time = heads.decode_ms(np.asarray(10.0), np.asarray(5000.0), 8.0, 1.0)
    assert float(time) == pytest.approx(0.16 * 2**0.25, rel=1e-6)


def test_no_kernel_reads_more_than_a_cache_holds_faster_than_memory() -> None:
    heads = HeadFormat(head_dim=100.0, kv_bytes=2.0, peaks=PEAKS, floor_ms=1e-9)
    context = np.asarray([1000.0, 100_000.0])
    # 2 * 2 B * 10 requests * 8 heads * 100 = 32 kB a token: 32 MB may lie in a cache,
    # 3.2 GB take 3.2 ms at 1 GB/ms.
    least = heads.least_decode_ms(np.asarray(10.0), context, 8.0)
    assert least == pytest.approx([0.0, 3.2])


def test_more_heads_than_measured_count_as_more_requests() -> None:
    # Measured up to 8 K/V heads: 40 of them in 4 requests keep the GPU as busy as 8 in
    # 20 requests, half-way between 10 and 40 on the axis of requests.
    axes = (
        Axis(name="requests", knots=(10.0, 40.0)),
        Axis(name="context", knots=(1.0,)),
        Axis(name="kv_heads", knots=(1.0, 8.0)),
        Axis(name="group", knots=(1.0,)),
    )
    surface = Surface(axes=axes, log_slowdown=(2.0, 2.0, 0.0, 0.0))
    model = AttentionModel(floor_ms=1.0, surface=surface)
    at = np.asarray(4.0), np.asarray(1000.0)
    assert model.decode_slowdown(*at, 40.0, 1.0) == pytest.approx(np.exp(1.0))
    assert model.decode_slowdown(*at, 8.0, 1.0) == pytest.approx(np.exp(2.0))


def test_experts_stream_only_what_a_batch_touches() -> None:
    model = MoeModel(floor_ms=1e-9, surface=flat(*"abcde"))
    shape = ExpertShape(
        hidden=1000.0,
        intermediate=1000.0,
        num_matrices=3,
        num_experts=100.0,
        experts_here=50.0,
        experts_per_token=10.0,
        bytes_per_weight=1000.0,
    )
    # 1 token over two GPUs: 50 * 10 / 100 = 5 of the 50 experts here, 3 GB each.
    assert at(1, model.ms(shape, PEAKS)) == pytest.approx(15.0, rel=1e-3)
    # Many tokens: all 50 = 150 ms of weights, and 262144 * 5 rows of 6e6 FLOP.
    assert at(262144, model.ms(shape, PEAKS)) == pytest.approx(7864.3, rel=1e-3)


def test_an_all_reduce_is_a_start_and_bytes_over_the_ring() -> None:
    model = CollectiveModel(
        fabric="tiny",
        kind=LinkKind.NVLINK,
        link_bytes_per_s=1e12,
        alpha_ms=0.5,
        surface=flat("bytes", "num_gpus"),
    )
    sizes = np.asarray([0.0 + 1e-9, 1e9])
    # 4 GPUs: 2 * 3 / 4 * 1 GB at 1 GB/ms, and at half the rate.
    assert model.ms(sizes, num_gpus=4, bytes_per_s=1e12) == pytest.approx([0.5, 2.0])
    assert model.ms(sizes, num_gpus=4, bytes_per_s=5e11) == pytest.approx([0.5, 3.5])
    assert model.ms(sizes, num_gpus=1, bytes_per_s=1e12).tolist() == [0.0, 0.0]


def test_elementwise_kernels_pay_a_launch_each() -> None:
    model = ElementwiseModel(launch_ms=0.1, memory_frac=0.5, attention_launch_ms=0.2)
    # 2 launches and 1 GB at half of 1 GB/ms.
    time = model.ms(np.asarray(1e9), memory_bytes_per_s=1e12, num_kernels=2)
    assert float(time) == pytest.approx(2.2)
