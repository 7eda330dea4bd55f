"""What routers and admission go by: forecasts of output lengths, and limits."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from clusters.fields import check_fields, spec

IntArray = NDArray[np.int64]


class PromptOrder(StrEnum):
    """Order in which waiting prompts of a window are admitted."""

    FCFS = "fcfs"
    SHORTEST_FIRST = "sjf"
    LONGEST_FIRST = "ljf"


class DecodeAdmission(StrEnum):
    """When a decode replica fetches a prefilled request (TetriInfer, section 3.4).

    `GREEDY`: as soon as its prompt and one token fit. `RESERVE_STATIC`: when its prompt
    and its forecast output fit what is free now. `RESERVE_DYNAMIC`: when it still fits
    at the forecast end of the resident request that ends first.
    """

    GREEDY = "greedy"
    RESERVE_STATIC = "reserve_static"
    RESERVE_DYNAMIC = "reserve_dynamic"


class DecodeMix(StrEnum):
    """Which of two decode replicas tetriinfer prefers."""

    FEWEST_HEAVY = "fewest_heavy"
    LOWEST_RATIO = "lowest_ratio"


class Forecast(StrEnum):
    """What is believed of an output length before it is known.

    `NONE`: nothing, 0 tokens. `MEAN`: the mean of the workload, for every request.
    `BUCKETS`: the lower end of the bucket that a classifier names, right with a given
    probability. `TRUE`: the length itself, which no real controller sees; it is there
    to compare with simulations that read it.
    """

    NONE = "none"
    MEAN = "mean"
    BUCKETS = "buckets"
    TRUE = "true"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """Limits and forecasts of the routing policies that have any."""

    forecast: Forecast | None = spec(
        "How output lengths are forecast. None: buckets for tetriinfer, else the mean.",
        default=None,
    )
    bucket_tokens: int = spec(
        "Width of a bucket of output lengths.", unit="tokens", gt=0, default=200
    )
    bucket_accuracy_frac: float = spec(
        "Share of requests whose bucket is named rightly (published: 0.749 for 200 "
        "tokens); the others get any other bucket of the workload.",
        unit="1",
        ge=0,
        le=1,
        default=0.749,
    )
    heavy_output_tokens: int = spec(
        "Tetriinfer: a forecast above this makes a decode heavy.",
        unit="tokens",
        ge=0,
        default=128,
    )
    decode_mix: DecodeMix = spec(
        "Tetriinfer: by heavy decodes, or by their ratio to light ones (as published).",
        default=DecodeMix.FEWEST_HEAVY,
    )
    max_pending_tokens: int = spec(
        "Splitwise: a machine whose queue is not empty takes no prompt that would "
        "bring its pending prompt tokens above this.",
        unit="tokens",
        gt=0,
        default=8192,
    )
    seed: int = spec(
        "Seed of the forecasts, and of routers that choose at random.",
        unit="1",
        ge=0,
        default=0,
    )

    def __post_init__(self) -> None:
        check_fields(self)


def expected_outputs(
    output_tokens: IntArray, settings: RouterSettings, forecast: Forecast
) -> IntArray:
    """Forecast output tokens of every request, shape ``(num_requests,)``.

    What policies may look at in place of `output_tokens`.
    """
    if forecast is Forecast.TRUE:
        return output_tokens
    if forecast is Forecast.NONE:
        return np.zeros_like(output_tokens)
    if forecast is Forecast.MEAN:
        return np.full_like(output_tokens, round(float(output_tokens.mean())))
    width = settings.bucket_tokens
    right = (output_tokens - 1) // width
    rng = np.random.default_rng([settings.seed, 1])
    num_buckets = int(right.max()) + 1
    is_wrong = rng.random(len(right)) >= settings.bucket_accuracy_frac
    shift = rng.integers(1, max(num_buckets, 2), size=len(right))
    named = np.where(is_wrong, (right + shift) % num_buckets, right)
    return named * width


def dice(num_requests: int, settings: RouterSettings) -> IntArray:
    """62 random bits for each request, shape ``(num_requests,)``.

    A request keeps its dice whatever happens before it comes to be routed.
    """
    rng = np.random.default_rng([settings.seed, 2])
    return rng.integers(0, 1 << 62, size=num_requests, dtype=np.int64)
