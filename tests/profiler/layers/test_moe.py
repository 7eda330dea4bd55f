"""Experts get the tokens that chose them, with the weights they were given."""

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", reason="the profiler needs torch")

from models.llm import LlmSpec, MoeSpec  # noqa: E402
from profiler.layers.moe import Moe, grouped_loop  # noqa: E402
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
