"""A format without a kernel is told, so that nobody takes its time for another's."""

from collections.abc import Callable
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the profiler needs torch")

from clusters.gpu import Dtype  # noqa: E402
from models.llm import LlmSpec, MoeSpec, Precision, WeightFormat  # noqa: E402
from profiler.layers.formats import stand_ins  # noqa: E402
from profiler.layers.settings import LayerSettings  # noqa: E402

PLAIN = LayerSettings(device=torch.device("cpu"), dtype=torch.bfloat16)
WITH_FP8 = replace(PLAIN, has_fp8=True)
BF16 = Precision.uniform(Dtype.BF16)
FP8 = WeightFormat.plain(Dtype.FP8)
INT4 = WeightFormat(bytes_per_weight=0.5, compute_dtype=Dtype.BF16)
MOE = MoeSpec(
    num_experts=8, experts_per_token=2, expert_intermediate=32, shared_intermediate=32
)

Changed = Callable[..., LlmSpec]


def test_model_as_it_is_has_none(changed: Changed) -> None:
    assert stand_ins(changed(precision=BF16), PLAIN, has_experts=False) == ()


def test_fp8_weights_need_a_device_that_multiplies_them(changed: Changed) -> None:
    llm = changed(precision=replace(BF16, attention=FP8, mlp=FP8))
    assert stand_ins(llm, WITH_FP8, has_experts=False) == ()
    assert stand_ins(llm, PLAIN, has_experts=False) == (
        "bf16 for 8-bit attention",
        "bf16 for 8-bit output projection",
        "bf16 for 8-bit feed-forward",
    )


def test_experts_and_narrow_formats_have_no_kernel_anywhere(changed: Changed) -> None:
    llm = changed(moe=MOE, precision=replace(BF16, experts=FP8, mlp=INT4))
    assert stand_ins(llm, WITH_FP8, has_experts=True) == (
        "bf16 for 4-bit feed-forward",
        "bf16 for 8-bit experts",
    )
    # A dense layer of the same model has no experts.
    assert stand_ins(llm, WITH_FP8, has_experts=False) == (
        "bf16 for 4-bit feed-forward",
    )


def test_narrow_kv_cache_is_kept_in_the_format_of_the_activations(
    changed: Changed,
) -> None:
    llm = changed(precision=replace(BF16, kv=Dtype.FP8))
    assert stand_ins(llm, WITH_FP8, has_experts=False) == ("bf16 for 8-bit KV cache",)
