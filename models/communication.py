"""Time of the messages between GPUs: collectives, pipeline hops and KV transfers.

Every form is ``fixed + bytes / rate``: linear in bytes, so that a step table stays
piecewise linear. Collectives take the tree's latency and the ring's bandwidth, because
libraries switch between the two (Thakur, Rabenseifner, Gropp, "Optimization of
Collective Communication Operations in MPICH", IJHPCA 2005). `num_bytes` may be a number
or a NumPy array.
"""

import math
from dataclasses import dataclass

from clusters.fields import check_fields, spec
from clusters.links import GroupLink
from clusters.units import transfer_ms
from models.shapes import Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class CommunicationEfficiency:
    """What software leaves of a link.

    Provenance: all-reduces profiled on DGX-A100 and DGX-H100 (Vidur, MLSys 2024,
    released profiles): bus bandwidth at 64 MB is 156-174 of 300 GB/s and 274-339 of
    450 GB/s per direction, small messages take 20-60 us with NCCL. Send/recv in a
    node reaches 229 of 300 and 348 of 450 GB/s.
    """

    collective_frac: float = spec(
        "Bus bandwidth of a large all-reduce over the link's peak.",
        unit="1",
        gt=0,
        le=1,
        default=0.65,
    )
    point_to_point_frac: float = spec(
        "Rate of a large send over the link's peak.", unit="1", gt=0, le=1, default=0.77
    )
    floor_ms: float = spec(
        "Launch and synchronisation of one call.", unit="ms", ge=0, default=0.012
    )

    def __post_init__(self) -> None:
        check_fields(self)


def all_reduce_ms(
    num_bytes: Tokens,
    link: GroupLink,
    *,
    num_gpus: int,
    efficiency: CommunicationEfficiency,
) -> Tokens:
    """All-reduce of a `num_bytes` buffer over a ring of `num_gpus`, in ms."""
    if num_gpus == 1:
        return 0.0 * num_bytes
    steps = 2 * math.ceil(math.log2(num_gpus))
    factor = 2 * (num_gpus - 1) / num_gpus
    rate = efficiency.collective_frac * link.bytes_per_s
    fixed_ms = efficiency.floor_ms + steps * link.latency_ms
    return fixed_ms + transfer_ms(factor, rate) * num_bytes


def all_to_all_ms(
    num_bytes: Tokens,
    link: GroupLink,
    *,
    num_gpus: int,
    efficiency: CommunicationEfficiency,
) -> Tokens:
    """All-to-all in which each GPU holds `num_bytes` to spread, in ms."""
    if num_gpus == 1:
        return 0.0 * num_bytes
    factor = (num_gpus - 1) / num_gpus
    rate = efficiency.collective_frac * link.bytes_per_s
    fixed_ms = efficiency.floor_ms + link.latency_ms
    return fixed_ms + transfer_ms(factor, rate) * num_bytes


def pipeline_hop_ms(
    num_bytes: Tokens, link: GroupLink, *, efficiency: CommunicationEfficiency
) -> Tokens:
    """Sending `num_bytes` of activations to the next pipeline stage, in ms."""
    rate = efficiency.point_to_point_frac * link.bytes_per_s
    fixed_ms = efficiency.floor_ms + link.latency_ms
    return fixed_ms + transfer_ms(1.0, rate) * num_bytes


def kv_transfer_ms(
    num_bytes: float, *, bytes_per_s: float, latency_ms: float = 0.0
) -> float:
    """Moving a request's KV cache in one piece after its prefill, in ms."""
    return latency_ms + transfer_ms(num_bytes, bytes_per_s)
