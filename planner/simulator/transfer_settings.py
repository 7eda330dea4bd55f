"""KvTransfer: how KV caches get from prefill to decode replicas.

Reference
    Patel et al., "Splitwise", ISCA 2024, section 4.2: serialized and layer-wise
    transfers, chosen by the size of the prompt.
"""

from dataclasses import dataclass
from enum import StrEnum

from clusters.fields import check_fields, spec


class TransferMode(StrEnum):
    """When the KV cache of a prompt is sent.

    `SERIALIZED`: the decode replica pulls it when the prompt is prefilled.
    `LAYER_WISE`: a decode replica is chosen and makes room when the prefill starts, and
    each layer is sent as soon as it is prefilled. `BY_SIZE`: long prompts layer by
    layer, the others serialized.
    """

    SERIALIZED = "serialized"
    LAYER_WISE = "layer_wise"
    BY_SIZE = "by_size"


class LinkSharing(StrEnum):
    """How transfers at the same time share a link.

    `FIRST_COME`: one after the other. `FAIR`: all at once, at max-min fair rates.
    """

    FIRST_COME = "first_come"
    FAIR = "fair"


@dataclass(frozen=True, slots=True, kw_only=True)
class KvTransfer:
    """How KV caches are sent; rates and set-up times are those of the routes."""

    connector: str | None = spec(
        "Preset that engine.kv_link_efficiency_frac, engine.kv_setup_ms and block_ms "
        "come from where a file does not give them (nixl-rdma, nixl-tcp, lmcache, "
        "mooncake-rdma, mooncake-tcp, nccl).",
        default=None,
    )
    mode: TransferMode = spec(
        "When KV caches are sent.", default=TransferMode.SERIALIZED
    )
    layer_wise_above_tokens: int = spec(
        "by_size: prompts longer than this are sent layer by layer (Splitwise: 512 on "
        "H100).",
        unit="tokens",
        ge=0,
        default=512,
    )
    layer_wise_ms: float = spec(
        "What a layer-wise transfer takes after the prefill beside its last layer, for "
        "the layers' signals and a last check (Splitwise: 5 on H100, 8 on A100).",
        unit="ms",
        ge=0,
        default=5.0,
    )
    block_ms: float = spec(
        "Connector's time for the descriptors of one KV block, beside its bytes (vLLM "
        "with NIXL and blocks of 16 tokens: 0.25).",
        unit="ms/block",
        ge=0,
        default=0.0,
    )
    sharing: LinkSharing = spec(
        "How transfers at the same time share a link.", default=LinkSharing.FIRST_COME
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def least_layer_wise_tokens(self) -> int | None:
        """Shortest prompt that is sent layer by layer; None: no prompt is."""
        if self.mode is TransferMode.SERIALIZED:
            return None
        is_every = self.mode is TransferMode.LAYER_WISE
        return 1 if is_every else self.layer_wise_above_tokens + 1
