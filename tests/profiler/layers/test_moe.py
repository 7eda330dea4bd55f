"""Experts get the tokens that chose them, with the weights they were given."""

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", reason="the profiler needs torch")

from models.llm import LlmSpec, MoeSpec  # noqa: E402
from profiler.features import LEFT_OUT  # noqa: E402
from profiler.layers import moe as moe_module  # noqa: E402
from profiler.layers.moe import (  # noqa: E402
    Moe,
    grouped_kernel,
    grouped_loop,
    grouped_product_for,
    why_not_grouped,
)
from profiler.layers.settings import LayerSettings  # noqa: E402

SETTINGS = LayerSettings(device=torch.device("cpu"), dtype=torch.float32)
MOE = MoeSpec(num_experts=16, experts_per_token=2, expert_intermediate=32)


@pytest.fixture
def moe(changed: Callable[..., LlmSpec]) -> Moe:
    return Moe(changed(moe=MOE), 1, SETTINGS)


def test_answer_is_the_weighted_sum_of_the_chosen_experts(moe: Moe) -> None:
    x = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    found = moe(x)
    experts, weights = moe.route(x)
    for token in range(10):
        exact = torch.zeros(64)
        for expert, weight in zip(experts[token], weights[token], strict=True):
            up = x[token] @ moe._up[expert]
            gated = torch.nn.functional.silu(up[:32]) * up[32:]
            exact += weight * (gated @ moe._down[expert])
        torch.testing.assert_close(found[token], exact, rtol=1e-3, atol=1e-5)


def test_routing_is_skewed_to_the_first_experts(moe: Moe) -> None:
    x = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    experts, weights = moe.route(x)
    load = torch.bincount(experts.flatten(), minlength=16).float()
    assert load[:4].mean() > 1.3 * load[-4:].mean()
    assert load.min() > 0
    torch.testing.assert_close(weights.sum(1), torch.ones(4000))


def test_expert_without_tokens_is_skipped() -> None:
    rows, weights = torch.ones(3, 4), torch.ones(3, 4, 2)
    out = grouped_loop(rows, weights, torch.tensor([1, 1, 3]))
    assert out.shape == (3, 2)
    assert torch.equal(out, torch.full((3, 2), 4.0))


def test_grouped_kernel_multiplies_as_the_loop_does() -> None:
    """Torch has it on CPUs too, and this checks how it is called."""
    if not hasattr(torch, "_grouped_mm"):
        pytest.skip("this torch has no grouped product")
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 64, generator=generator, dtype=torch.bfloat16)
    weights = torch.randn(4, 64, 32, generator=generator, dtype=torch.bfloat16)
    ends = torch.tensor([3, 3, 30, 40], dtype=torch.int32)
    torch.testing.assert_close(
        grouped_kernel(rows, weights, ends), grouped_loop(rows, weights, ends)
    )


def test_grouped_kernel_is_used_where_it_is_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Here:
        """A device that says it is CUDA, with tensors on the processor."""

        type = "cuda"

    def drawn(*shape: int, device: Here, dtype: object, **_: float) -> torch.Tensor:
        return torch.randn(shape)

    here, kind = Here(), torch.float32
    tensor = torch.tensor
    monkeypatch.setattr(moe_module, "random_tensor", drawn)
    monkeypatch.setattr(
        torch, "tensor", lambda values, dtype, device: tensor(values, dtype=dtype)
    )
    monkeypatch.setattr(moe_module, "grouped_kernel", grouped_loop)
    assert grouped_product_for(here, kind)[0] == "grouped"

    def twice(*arguments: torch.Tensor) -> torch.Tensor:
        return 2 * grouped_loop(*arguments)

    monkeypatch.setattr(moe_module, "grouped_kernel", twice)
    assert why_not_grouped(here, kind) == "it is off by 100%"
    assert grouped_product_for(here, kind)[0] == "loop"

    def missing(*_: torch.Tensor) -> torch.Tensor:
        raise AttributeError("module 'torch' has no attribute '_grouped_mm'")

    monkeypatch.setattr(moe_module, "grouped_kernel", missing)
    assert why_not_grouped(here, kind) == (
        "module 'torch' has no attribute '_grouped_mm'"
    )
    monkeypatch.setenv(LEFT_OUT, "grouped")
    assert why_not_grouped(here, kind) == f"left out by {LEFT_OUT}"
