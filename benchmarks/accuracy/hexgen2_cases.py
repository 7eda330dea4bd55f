"""Clusters, models and workload classes of the HexGen-2 comparison.

Machines and prices come from the reference file. What it does not know is ours and
told in `bandwidths_of`: links inside nodes, and GPU types that are not in the catalogue
(of the file's peak rates). Lengths are those of the Azure conversation trace, split as
HexGen-2 does: a prompt above 512 tokens is a heavy prefill (HP), an answer above 128
tokens a heavy decode (HD).
"""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clusters.cluster import Cluster
from clusters.fabric import Fabric
from clusters.gpu import Dtype, DtypeRate, GpuType, Source
from clusters.node import Interconnect, Node, NodeType
from clusters.units import TERA, gb_to_bytes, gbit_to_bytes
from models.llm import LlmSpec
from planner.workload.arrivals import PoissonArrivals
from planner.workload.lengths import EmpiricalLengths
from planner.workload.workload import Workload

SHARED = Path(__file__).parents[3] / "shared"
FILE = SHARED / "reference/hexgen2/clusters.json"
TRACE = SHARED / "data/traces/AzureLLMInferenceTrace_conv.csv"
HOMOGENEOUS = "hexgen2_homogeneous_8xH100"
SETTINGS = ("hexgen2_like_setting1_20gpu", "hexgen2_like_30pct_lower_budget")
CLOUD = "thunderserve_cloud32"
PAIR = "thunderserve_4xA40_4x3090Ti"
HEAVY_INPUT_TOKENS = 512
HEAVY_OUTPUT_TOKENS = 128
CLASSES = {
    "HPLD": (True, False),
    "HPHD": (True, True),
    "LPHD": (False, True),
    "LPLD": (False, False),
}
"""Heavy prefill, heavy decode."""
CONTEXT_TOKENS = {"llama-2-70b": 4096, "opt-30b": 2048, "llama-30b": 2048}
"""Longer requests of the trace are left out."""

_CATALOGUE = {
    "H100": "h100_sxm",
    "A100_80": "a100_sxm",
    "A6000": "a6000",
    "A40": "a40",
}
_LIKE = {"L40": "l40s", "RTX3090Ti": "a6000", "A5000": "a6000"}
"""Chip of a catalogue entry (whole or in part); rates and memory are of the file."""
_LIKE_GB = 48
"""Memory of these entries, as it is sold."""
_NVSWITCH_GBIT_PER_S = 2400
"""At least this much within a node is NVLink, otherwise PCIe."""


def read_clusters(path: Path = FILE) -> dict[str, Any]:
    """The reference file: its clusters by name, and its GPU types."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return {"gpus": data["gpus"], **{each["id"]: each for each in data["clusters"]}}


def gpu_type(name: str, facts: dict[str, Any]) -> GpuType:
    """The catalogue's type, or one of the same chip with the rates of the file."""
    if name in _CATALOGUE:
        return GpuType.load(_CATALOGUE[name])
    base = GpuType.load(_LIKE[name])
    rate = facts["fp16_dense_tflops"] * TERA
    return replace(
        base,
        name=name.lower(),
        memory_bytes=round(base.memory_bytes * facts["mem_gb"] / _LIKE_GB),
        memory_bytes_per_s=gb_to_bytes(facts["hbm_gbps"]),
        flops=tuple(
            DtypeRate(dtype=dtype, flops_per_s=rate)
            for dtype in (Dtype.FP16, Dtype.BF16)
        ),
        sources=(Source(source=facts["spec_source"], date="2026-11-21"),),
    )


def cluster_of(
    data: dict[str, Any], name: str, *, nic_gbit_per_s: float | None = None
) -> Cluster:
    """A cluster of the file; `nic_gbit_per_s` where the file leaves it open."""
    entry = data[name]
    prices = entry.get("price_per_gpu_hour", {})
    nodes = []
    for each in entry["nodes"]:
        gpu = gpu_type(each["gpu"], data["gpus"][each["gpu"]])
        inside = each["intra_node_gbps"]
        is_nvlink = inside >= _NVSWITCH_GBIT_PER_S
        price = prices.get(each["gpu"])
        nic = each["nic_gbps"] or nic_gbit_per_s
        kind = NodeType(
            name=f"{each['count']}x{gpu.name}",
            gpu=gpu,
            num_gpus=each["count"],
            interconnect=Interconnect.NVSWITCH if is_nvlink else Interconnect.PCIE,
            num_nics=1,
            nic_bytes_per_s=gbit_to_bytes(nic),
            usd_per_hour=None if price is None else price * each["count"],
        )
        nodes.append(Node(name=each["id"], type=kind))
    return Cluster(name=name, nodes=tuple(nodes), fabric=Fabric())


def bandwidths_of(cluster: Cluster) -> list[dict[str, Any]]:
    """Links used, node by node, in GB/s of one direction."""
    return [
        {
            "node": f"{node.name}: {node.type.name}",
            "inside": str(node.type.interconnect),
            "inside_gb_per_s": (
                node.type.gpu.nvlink_bytes_per_s
                if node.type.interconnect is Interconnect.NVSWITCH
                else node.type.gpu.pcie_bytes_per_s
            )
            / gb_to_bytes(1),
            "nic_gb_per_s": node.type.nic_bytes_per_s / gb_to_bytes(1),
        }
        for node in cluster.nodes
    ]


def lengths_of(trace: Path, model: str, name: str) -> EmpiricalLengths:
    """Requests of the trace that are of a class and within the model's context."""
    with trace.open(encoding="utf-8") as file:
        rows = [(int(r[1]), int(r[2])) for r in list(csv.reader(file))[1:]]
    heavy_prefill, heavy_decode = CLASSES[name]
    kept = [
        (prompt, answer)
        for prompt, answer in rows
        if prompt > 0
        and answer > 0
        and prompt + answer <= CONTEXT_TOKENS[model]
        and (prompt > HEAVY_INPUT_TOKENS) is heavy_prefill
        and (answer > HEAVY_OUTPUT_TOKENS) is heavy_decode
    ]
    pairs = np.array(kept, dtype=np.int64)
    return EmpiricalLengths(input_tokens=pairs[:, 0], output_tokens=pairs[:, 1])


def workload_of(lengths: EmpiricalLengths) -> Workload:
    """Poisson arrivals with these lengths."""
    return Workload.of_lengths(lengths, arrivals=PoissonArrivals(), rate_rps=1.0)


def llm_of(model: str) -> LlmSpec:
    """The model of the catalogue."""
    return LlmSpec.load(model)
