"""By-hand links and models: tiny sizes whose costs can be derived in a comment."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from clusters.gpu import Dtype, GpuType
from clusters.links import GroupLink, GroupLinks
from models.latency.library import LatencyRequest
from models.llm import LlmSpec, Precision
from models.parallelism import Parallelism

TINY = LlmSpec(
    name="tiny",
    num_layers=2,
    hidden=8,
    num_heads=4,
    num_kv_heads=2,
    head_dim=2,
    intermediate=16,
    mlp_matrices=3,
    vocab=10,
    max_positions=64,
    precision=Precision.uniform(Dtype.BF16),
)


@pytest.fixture
def tiny_llm() -> LlmSpec:
    """2 layers, 8 wide, 4 query and 2 KV heads of 2, MLP 3 x 8 x 16, vocabulary 10."""
    return TINY


@pytest.fixture
def tiny_windowed(tiny_llm: LlmSpec) -> LlmSpec:
    """The same with a window of 4 tokens in the first of the two layers."""
    return replace(tiny_llm, name="tiny_windowed", windows=(4, None))


@pytest.fixture
def nvlink_request() -> Callable[..., LatencyRequest]:
    """A replica whose GPUs are joined by the full NVLink of their type."""

    def build(
        llm: str | LlmSpec, gpu: str | GpuType, *, tp: int = 1, pp: int = 1
    ) -> LatencyRequest:
        kind = GpuType.load(gpu) if isinstance(gpu, str) else gpu
        link = GroupLink(
            bytes_per_s=kind.nvlink_bytes_per_s or kind.pcie_bytes_per_s,
            latency_ms=0.002,
        )
        return LatencyRequest(
            llm=LlmSpec.load(llm) if isinstance(llm, str) else llm,
            parallelism=Parallelism(tp=tp, pp=pp),
            gpu=kind,
            links=GroupLinks(tp=(link,) * pp, pp=(link,) * (pp - 1)),
        )

    return build
