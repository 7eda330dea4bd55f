"""One row for each entry of the catalogue, with the numbers to choose by."""

from collections.abc import Callable
from typing import Any

from clusters.cluster import Cluster
from clusters.gpu import Dtype, GpuType
from clusters.node import NodeType
from models.flops import num_parameters
from models.llm import LlmSpec, catalog_names
from planner.cli.llm_facts import short_kv_bytes_per_token, weights_bytes
from planner.kv_connectors import KvConnector
from planner.workload.presets import length_presets

COLUMNS = {
    "memory_bytes": ("memory", "bytes"),
    "memory_bytes_per_s": ("memory rate", "bytes/s"),
    "fp16_flops_per_s": ("fp16", "FLOP/s"),
    "fp8_flops_per_s": ("fp8", "FLOP/s"),
    "nvlink_bytes_per_s": ("NVLink", "bytes/s"),
    "tdp_w": ("TDP", "W"),
    "num_gpus": ("GPUs", "1"),
    "num_nics": ("NICs", "1"),
    "nic_bytes_per_s": ("a NIC", "bytes/s"),
    "usd_per_hour": ("price", "usd/h"),
    "parameters": ("parameters", "parameters"),
    "weights_bytes": ("weights", "bytes"),
    "kv_bytes_per_token": ("KV bytes a token", "1"),
    "max_positions": ("max. context", "1"),
    "num_nodes": ("nodes", "1"),
    "mean_input_tokens": ("mean input", "1"),
    "mean_output_tokens": ("mean output", "1"),
    "link_efficiency_frac": ("of a link", "1"),
    "setup_ms": ("set-up", "ms"),
    "block_ms": ("a block", "ms"),
}
"""Heading and unit of the numbers in rows."""


def names_of(kind: str) -> tuple[str, ...]:
    """Names of the entries of one kind."""
    return _KINDS[kind][0]()


def rows_of(kind: str) -> list[dict[str, Any]]:
    """Rows of all entries of one kind, as plain data."""
    names, row_of = _KINDS[kind]
    return [{"name": name, **row_of(name)} for name in names()]


def _gpu_row(name: str) -> dict[str, Any]:
    gpu = GpuType.load(name)
    rates = {rate.dtype: rate.flops_per_s for rate in gpu.flops}
    return {
        "memory_bytes": gpu.memory_bytes,
        "memory_bytes_per_s": gpu.memory_bytes_per_s,
        "fp16_flops_per_s": rates.get(Dtype.FP16),
        "fp8_flops_per_s": rates.get(Dtype.FP8),
        "nvlink_bytes_per_s": gpu.nvlink_bytes_per_s or None,
        "tdp_w": gpu.tdp_w,
    }


def _instance_row(name: str) -> dict[str, Any]:
    node = NodeType.load(name)
    return {
        "gpu": node.gpu.name,
        "num_gpus": node.num_gpus,
        "interconnect": str(node.interconnect),
        "num_nics": node.num_nics,
        "nic_bytes_per_s": node.nic_bytes_per_s,
        "usd_per_hour": node.usd_per_hour,
    }


def _llm_row(name: str) -> dict[str, Any]:
    llm = LlmSpec.load(name)
    kinds = {
        "MLA": llm.mla,
        "MoE": llm.moe,
        "windows": llm.windows or None,
        "sparse": llm.indexer,
        "linear": llm.linear,
    }
    return {
        "parameters": num_parameters(llm),
        "weights_bytes": weights_bytes(llm),
        "kv_bytes_per_token": short_kv_bytes_per_token(llm),
        "max_positions": llm.max_positions,
        "kind": ", ".join(key for key, part in kinds.items() if part) or "dense",
    }


def _cluster_row(name: str) -> dict[str, Any]:
    cluster = Cluster.load(name)
    return {
        "num_nodes": len(cluster.nodes),
        "num_gpus": cluster.num_gpus,
        "usd_per_hour": cluster.usd_per_hour(range(cluster.num_gpus)),
        "description": cluster.description,
    }


def _workload_row(name: str) -> dict[str, Any]:
    preset = length_presets()[name]
    return {
        "mean_input_tokens": preset.lengths.mean_input_tokens,
        "mean_output_tokens": preset.lengths.mean_output_tokens,
        "meaning": preset.meaning,
    }


def _connector_row(name: str) -> dict[str, Any]:
    connector = KvConnector.load(name)
    return {
        "link_efficiency_frac": connector.link_efficiency_frac,
        "setup_ms": connector.setup_ms,
        "block_ms": connector.block_ms,
        "meaning": connector.meaning,
    }


_KINDS: dict[
    str, tuple[Callable[[], tuple[str, ...]], Callable[[str], dict[str, Any]]]
] = {
    "gpus": (GpuType.names, _gpu_row),
    "instances": (NodeType.names, _instance_row),
    "llms": (catalog_names, _llm_row),
    "clusters": (Cluster.names, _cluster_row),
    "workloads": (lambda: tuple(length_presets()), _workload_row),
    "connectors": (KvConnector.names, _connector_row),
}
