"""Time of the messages between GPUs: collectives and pipeline hops.

Every form is ``fixed + bytes / rate``: linear in bytes, so that a step table stays
piecewise linear. Collectives take the tree's latency and the ring's bandwidth, because
libraries switch between the two (Thakur, Rabenseifner, Gropp, "Optimization of
Collective Communication Operations in MPICH", IJHPCA 2005). `num_bytes` may be a number
or a NumPy array.
"""

import math
from dataclasses import dataclass

import numpy as np

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertRouting:
    """How the tokens of a mixture of experts are spread over the GPUs of a stage."""

    num_gpus: int = spec("GPUs that exchange tokens.", unit="GPUs", ge=1)
    expert_gpus: int = spec("Of them, with different experts (EP).", unit="GPUs", ge=1)
    experts_per_token: int = spec("Experts of a token.", unit="experts", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def is_sparse(self) -> bool:
        """Whether rows go to the GPUs of their experts only, not to all of them.

        Engines gather everything, and scatter the sums, while a token visits most GPUs
        anyway; TensorRT-LLM considers all-to-all from as many expert GPUs on as a token
        has experts.
        """
        return self.is_whole and self.expert_gpus > self.experts_per_token

    @property
    def is_whole(self) -> bool:
        """Whether every expert is on one GPU, not split by width over several."""
        return self.expert_gpus == self.num_gpus

    @property
    def gpus_visited(self) -> float:
        """GPUs that hold an expert of a token, on average with uniform routing."""
        missed = (1.0 - 1.0 / self.expert_gpus) ** self.experts_per_token
        return self.expert_gpus * (1.0 - missed)

    @property
    def sent_frac(self) -> float:
        """Rows a GPU sends to the experts of its tokens, over the rows of everyone."""
        return self.gpus_visited / self.num_gpus


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
    rate = efficiency.collective_frac * link.bytes_per_s / link.sharers
    fixed_ms = efficiency.floor_ms + link.latency_ms
    return fixed_ms + transfer_ms(factor, rate) * num_bytes


def all_gather_ms(
    num_bytes: Tokens,
    link: GroupLink,
    *,
    num_gpus: int,
    efficiency: CommunicationEfficiency,
) -> Tokens:
    """All-gather to `num_bytes` on each GPU, or the reduce-scatter back, in ms.

    Half of an all-reduce, which is one of each.
    """
    if num_gpus == 1:
        return 0.0 * num_bytes
    steps = math.ceil(math.log2(num_gpus))
    factor = (num_gpus - 1) / num_gpus
    rate = efficiency.collective_frac * link.bytes_per_s
    fixed_ms = efficiency.floor_ms + steps * link.latency_ms
    return fixed_ms + transfer_ms(factor, rate) * num_bytes


def expert_exchange_ms(
    num_bytes: Tokens,
    link: GroupLink,
    routing: ExpertRouting,
    *,
    efficiency: CommunicationEfficiency,
) -> Tokens:
    """Taking the rows of all ranks (`num_bytes`) to their experts and back, in ms."""
    num_gpus = routing.num_gpus
    if not routing.is_sparse:
        return 2.0 * all_gather_ms(
            num_bytes, link, num_gpus=num_gpus, efficiency=efficiency
        )
    return 2.0 * all_to_all_ms(
        routing.sent_frac * num_bytes, link, num_gpus=num_gpus, efficiency=efficiency
    )


def ring_exposed_ms(block_ms: Tokens, transfer_ms: Tokens, *, num_ranks: int) -> Tokens:
    """What a ring of K/V blocks adds to the attention it hides behind, in ms.

    While a rank attends to one block it receives the next, so each of the
    ``num_ranks - 1`` turns adds what a block's transfer takes longer than its compute
    (Liu, Zaharia, Abbeel, "Ring Attention with Blockwise Transformers for Near-Infinite
    Context", ICLR 2024, arXiv 2310.01889, section 3).
    """
    exposed: Tokens = np.maximum(transfer_ms - block_ms, 0.0)
    return (num_ranks - 1) * exposed


def pipeline_hop_ms(
    num_bytes: Tokens, link: GroupLink, *, efficiency: CommunicationEfficiency
) -> Tokens:
    """Sending `num_bytes` of activations to the next pipeline stage, in ms."""
    rate = efficiency.point_to_point_frac * link.bytes_per_s
    fixed_ms = efficiency.floor_ms + link.latency_ms
    return fixed_ms + transfer_ms(1.0, rate) * num_bytes
