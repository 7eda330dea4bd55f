"""By-hand clusters: round numbers, so that every expected value can be derived."""

from clusters.cluster import Cluster
from clusters.fabric import Fabric
from clusters.gpu import Dtype, DtypeRate, GpuType
from clusters.mapping import from_mapping
from clusters.node import Node, NodeType

GB = 1e9


def make_tiny_gpu(*, nvlink_gb_per_s: float = 0.0) -> GpuType:
    """A GPU with 10 GB/s of PCIe and the given NVLink rate, in one direction."""
    return GpuType(
        name="tiny",
        vendor="test",
        architecture="test",
        memory_bytes=8 * 2**30,
        memory_bytes_per_s=1000 * GB,
        flops=(DtypeRate(dtype=Dtype.FP16, flops_per_s=100e12),),
        nvlink_bytes_per_s=nvlink_gb_per_s * GB,
        pcie_generation=4,
        pcie_bytes_per_s=10 * GB,
        num_sms=10,
        tdp_w=100,
    )


def make_tiny_node(**changes: object) -> NodeType:
    """Four PCIe GPUs, two a switch, one 2 GB/s NIC a switch, two sockets at 5 GB/s."""
    fields: dict[str, object] = {
        "name": "tiny_node",
        "gpu": make_tiny_gpu(),
        "num_gpus": 4,
        "interconnect": "pcie",
        "gpus_per_pcie_switch": 2,
        "num_sockets": 2,
        "socket_bytes_per_s": 5 * GB,
        "num_nics": 2,
        "nic_bytes_per_s": 2 * GB,
        "nvlink_latency_ms": 0.25,
        "pcie_latency_ms": 1.0,
        "nic_latency_ms": 10.0,
        **changes,
    }
    gpu = fields["gpu"]
    if isinstance(gpu, GpuType):
        fields["gpu"] = gpu.to_file_form()
    return from_mapping(NodeType, fields)


def make_tiny_cluster(
    num_nodes: int = 1, *, fabric: dict[str, object] | None = None, **changes: object
) -> Cluster:
    """Some tiny nodes behind one leaf, or the given fabric; it may be in parts."""
    kind = make_tiny_node(**changes)
    return Cluster(
        name="tiny",
        nodes=tuple(Node(name=f"node{i}", type=kind) for i in range(num_nodes)),
        fabric=from_mapping(Fabric, fabric or {}),
    )
