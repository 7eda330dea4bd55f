"""Mixture of experts of a shard: router, grouped products, shared expert.

Tokens are sorted by expert and multiplied in one grouped product a matrix. Routing is
skewed as trained routers are: expert r gets a share ~ r^-skew before the tokens' own
preferences, which random inputs provide.
"""

from collections.abc import Callable

import torch
from torch.nn import functional

from models.llm import LlmSpec
from profiler.features import Feature, why_left_out
from profiler.kernel_errors import KERNEL_ERRORS, first_line
from profiler.layers.linear import random_tensor
from profiler.layers.mlp import Mlp
from profiler.layers.settings import LayerSettings

GroupedProduct = Callable[..., torch.Tensor]
"""(rows, weights (experts, k, n), ends (experts,)) -> rows of width n."""

ROUTING_SKEW = 0.3
"""Exponent of the experts' shares (0: uniform), mild as with load-balanced training."""


class Moe:
    """Experts of one layer; on a shard every expert has its part of the width."""

    def __init__(self, llm: LlmSpec, tp: int, settings: LayerSettings) -> None:
        moe = llm.moe
        assert moe is not None
        device, dtype = settings.device, settings.dtype
        width = -(-moe.expert_intermediate // tp)
        self._num_experts, self._top_k = moe.num_experts, moe.experts_per_token
        self._router = settings.linear(llm.hidden, moe.num_experts)
        ranks = torch.arange(1, moe.num_experts + 1, device=device, dtype=dtype)
        self._preference = -ROUTING_SKEW * ranks.log()
        shape_up = (moe.num_experts, llm.hidden, 2 * width)
        shape_down = (moe.num_experts, width, llm.hidden)
        self._up = random_tensor(*shape_up, device=device, dtype=dtype)
        self._down = random_tensor(*shape_down, device=device, dtype=dtype)
        self._gate = settings.pointwise.gate
        self._shared = None
        if moe.shared_intermediate:
            self._shared = Mlp(llm, -(-moe.shared_intermediate // tp), settings)
        self.kernel, self._grouped = grouped_product_for(device, dtype)

    @property
    def weight_bytes(self) -> int:
        """Bytes of its weights."""
        tensors = (self._up, self._down)
        own = sum(t.numel() * t.element_size() for t in tensors)
        shared = self._shared.weight_bytes if self._shared else 0
        return own + self._router.weight_bytes + shared

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Experts' answers for the rows of `x` (tokens, hidden), weighted and added."""
        experts, weights = self.route(x)
        order = experts.flatten().argsort()
        source = order // self._top_k
        counts = torch.zeros(self._num_experts, dtype=torch.int32, device=x.device)
        ones = torch.ones_like(order, dtype=torch.int32)
        counts.index_add_(0, experts.flatten(), ones)
        ends = counts.cumsum(0, dtype=torch.int32)
        rows = x.index_select(0, source)
        hidden = self._gate(self._grouped(rows, self._up, ends))
        answers = self._grouped(hidden, self._down, ends)
        answers = answers * weights.flatten().index_select(0, order).unsqueeze(1)
        out = torch.zeros_like(x).index_add_(0, source, answers)
        return out if self._shared is None else out + self._shared(x)

    def route(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Experts of each token and their weights, shape (tokens, top_k) each."""
        logits = self._router(x)
        # Random weights give scores of another size than trained ones: unit variance.
        logits = logits / (logits.std(dim=-1, keepdim=True) + 1e-6) + self._preference
        scores, experts = logits.topk(self._top_k, dim=-1)
        return experts, scores.softmax(dim=-1)


def grouped_loop(
    rows: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor
) -> torch.Tensor:
    """Rows up to `ends[e]` times the matrix of expert e, one product an expert."""
    out = rows.new_empty(rows.shape[0], weights.shape[2])
    start = 0
    for expert, end in enumerate(ends.tolist()):
        if end > start:
            out[start:end] = rows[start:end] @ weights[expert]
        start = end
    return out


def grouped_kernel(
    rows: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor
) -> torch.Tensor:
    """The same in one kernel, with the ends left on the device.

    Public in torch 2.10, private since 2.8.
    """
    grouped: GroupedProduct | None = getattr(functional, "grouped_mm", None)
    if grouped is not None:
        return grouped(rows, weights, offs=ends)
    return torch._grouped_mm(rows, weights, offs=ends)  # noqa: SLF001


def grouped_product_for(
    device: torch.device, dtype: torch.dtype
) -> tuple[str, GroupedProduct]:
    """Name and function of the grouped product that works on this device."""
    if why_not_grouped(device, dtype) is None:
        return "grouped", grouped_kernel
    return "loop", grouped_loop


def why_not_grouped(device: torch.device, dtype: torch.dtype) -> str | None:
    """None when the grouped kernel is right on this device, or why it is not used."""
    if device.type != "cuda":
        return "the loop over experts is as good on a CPU"
    if left_out := why_left_out(Feature.GROUPED):
        return left_out
    # Shapes whose rows are multiples of 16 bytes, groups of any size, one empty.
    rows = random_tensor(40, 64, device=device, dtype=dtype, scale=1.0)
    weights = random_tensor(4, 64, 32, device=device, dtype=dtype)
    ends = torch.tensor([3, 3, 30, 40], dtype=torch.int32, device=device)
    try:
        found = grouped_kernel(rows, weights, ends).float()
        exact = grouped_loop(rows, weights, ends).float()
        error_frac = float((found - exact).norm() / exact.norm())
    except KERNEL_ERRORS as error:
        return first_line(error)
    # Written so that NaN never passes.
    return None if error_frac < 2e-2 else f"it is off by {error_frac:.0%}"
