"""Step tables of stages with ranks, on one ring over all GPUs of a node."""

from clusters.gpu import GpuType
from clusters.links import GroupLink, GroupLinks, LinkKind
from models.communication import CommunicationEfficiency
from models.latency.fitted import FittedSource
from models.latency.request import LatencyRequest, LatencySource
from models.latency.roofline import RooflineSource
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.parallelism import Parallelism

SOURCES: tuple[LatencySource, ...] = (
    FittedSource(),
    FittedSource(engine="trtllm"),
    RooflineSource(),
)
H200 = GpuType.load("h200_sxm")
FREE = GroupLink(bytes_per_s=1e30, latency_ms=0.0, kind=LinkKind.NVLINK)
IDEAL = CommunicationEfficiency(
    collective_frac=1.0, point_to_point_frac=1.0, floor_ms=0.0
)


def nvlink(gpu: GpuType) -> GroupLink:
    """The ring over all GPUs of a node: NVLink, or PCIe where there is none."""
    if gpu.nvlink_bytes_per_s:
        rate, kind = gpu.nvlink_bytes_per_s, LinkKind.NVLINK
    else:
        rate, kind = gpu.pcie_bytes_per_s, LinkKind.PCIE
    return GroupLink(bytes_per_s=rate, latency_ms=0.002, kind=kind)


def compiled(
    source: LatencySource,
    name: str,
    parallelism: Parallelism,
    gpu: GpuType = H200,
    *,
    link: GroupLink | None = None,
    prompt_tokens: float | None = None,
) -> StepTable:
    """The table of a one-stage replica."""
    request = LatencyRequest(
        llm=LlmSpec.load(name),
        parallelism=parallelism,
        gpu=gpu,
        links=GroupLinks(tp=(link or nvlink(gpu),)),
        prompt_tokens=prompt_tokens,
    )
    return source.compile(request)[0]
