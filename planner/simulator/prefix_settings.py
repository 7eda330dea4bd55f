"""Settings of prefix caches, and of the refusal of requests when they arrive."""

from dataclasses import dataclass
from enum import StrEnum

from clusters.fields import InputError, check_fields, spec


class CacheScope(StrEnum):
    """Whose prompts a cache holds."""

    LOCAL = "local"
    GLOBAL = "global"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixCache:
    """KV blocks of past prompts that a prefill replica keeps, least recent out first.

    A local cache serves one replica, a global one all replicas with these settings. A
    stated capacity is memory beside the KV cache (host memory); without one, the
    cache is whatever the KV cache of the replica has free at the time.
    """

    scope: CacheScope = spec("Whose prompts it holds.", default=CacheScope.LOCAL)
    capacity_tokens: int | None = spec(
        "Tokens it holds. None: by capacity_bytes, or what the KV cache leaves free.",
        unit="tokens",
        ge=0,
        default=None,
    )
    capacity_bytes: float | None = spec(
        "Bytes it holds, in place of capacity_tokens.", unit="bytes", ge=0, default=None
    )
    block_tokens: int | None = spec(
        "Tokens of a block. None: those of the workload's prefix blocks.",
        unit="tokens",
        gt=0,
        default=None,
    )
    load_bytes_per_s: float | None = spec(
        "Rate at which a replica loads cached blocks; layers load while others are "
        "computed. None: they are in its memory.",
        unit="bytes/s",
        gt=0,
        default=None,
    )
    fetch_bytes_per_s: float | None = spec(
        "Rate at which a replica copies blocks from the local cache of another when "
        "cache-aware routing asks for it. None: it never does.",
        unit="bytes/s",
        gt=0,
        default=None,
    )
    balancing_threshold: float = spec(
        "Cache-aware routing copies the longest cached prefix to a replica whose own "
        "is shorter than this part of it: longest / own > threshold.",
        unit="1",
        ge=1,
        default=2.0,
    )

    keeps_outputs: bool = spec(
        "Answers of a session stay for its next turn, at the replica that prefilled.",
        default=False,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.capacity_tokens is not None and self.capacity_bytes is not None:
            raise InputError(
                "capacity_bytes", self.capacity_bytes, "no capacity_tokens beside it"
            )
        if self.scope is CacheScope.GLOBAL:
            if self.is_leftover:
                raise InputError("capacity_tokens", None, "a capacity, if global")
            if self.fetch_bytes_per_s is not None:
                raise InputError(
                    "fetch_bytes_per_s", self.fetch_bytes_per_s, "None, if global"
                )

    @property
    def is_leftover(self) -> bool:
        """Whether it lives in what the KV cache leaves free."""
        return self.capacity_tokens is None and self.capacity_bytes is None

    def tokens(self, kv_bytes_per_token: float) -> int | None:
        """Its stated capacity in tokens; None without one.

        Raises
        ------
        InputError
            For a capacity in bytes where a token has none.
        """
        if self.capacity_bytes is None:
            return self.capacity_tokens
        if kv_bytes_per_token <= 0:
            raise InputError(
                "capacity_bytes", self.capacity_bytes, "KV bytes of a token > 0"
            )
        return int(self.capacity_bytes // kv_bytes_per_token)


class AdmissionRule(StrEnum):
    """What is known of the decode phase when a request arrives.

    `CURRENT` looks at the decodes under way, `PREDICTED` at those expected by the end
    of the request's prefill.
    """

    CURRENT = "current"
    PREDICTED = "predicted"


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyRejection:
    """Refuse a request at its arrival when it is bound to miss its limits.

    Reference: Qin et al., "Mooncake", arXiv 2407.00079, section 7 (early rejection,
    and based on prediction).
    """

    rule: AdmissionRule = spec(
        "When the decode load is taken.", default=AdmissionRule.PREDICTED
    )
    ttft_ms: float = spec("Most predicted time to the first token.", unit="ms", gt=0)
    tbt_ms: float = spec("Most predicted time between tokens.", unit="ms", gt=0)
    decode_ms: float | None = spec(
        "How long the prediction takes every decode to last.",
        unit="ms",
        gt=0,
        default=None,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        is_predicted = self.rule is AdmissionRule.PREDICTED
        if is_predicted == (self.decode_ms is None):
            expected = "a duration with the rule predicted, None with current"
            raise InputError("decode_ms", self.decode_ms, expected)
