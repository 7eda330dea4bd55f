"""The lognormal length of a prompt or an answer, clipped to whole tokens in a range."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import from_fields
from planner.workload.requests import MAX_TOKENS, FloatArray, IntArray

_STANDARD = NormalDist()
_Z90 = _STANDARD.inv_cdf(0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lognormal:
    """A length whose logarithm is normal; drawn, rounded and clipped.

    Files may give any of these pairs instead of `median_tokens` and `log_std`:
    ``median_tokens`` and ``p90_tokens``, ``median_tokens`` and ``mean_tokens``,
    ``mean_tokens`` and ``cv``.
    """

    median_tokens: float = spec(
        "Median before clipping.", unit="tokens", gt=0, le=MAX_TOKENS
    )
    log_std: float = spec(
        "Standard deviation of the natural logarithm.", unit="1", ge=0, le=10
    )
    min_tokens: int = spec(
        "Shorter draws become this.", unit="tokens", ge=1, le=MAX_TOKENS, default=1
    )
    max_tokens: int = spec(
        "Longer draws become this.",
        unit="tokens",
        ge=1,
        le=MAX_TOKENS,
        default=1_000_000,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.max_tokens < self.min_tokens:
            raise InputError(
                "max_tokens", self.max_tokens, f"a number >= {self.min_tokens}"
            )

    @classmethod
    def from_median_p90(
        cls, median_tokens: float, p90_tokens: float, **clip: int
    ) -> Self:
        """The distribution with this median and 90th percentile."""
        if not p90_tokens >= median_tokens:
            raise InputError("p90_tokens", p90_tokens, f"a number >= {median_tokens:g}")
        _check_positive("median_tokens", median_tokens)
        log_std = math.log(p90_tokens / median_tokens) / _Z90
        return cls(median_tokens=median_tokens, log_std=log_std, **clip)

    @classmethod
    def from_median_mean(
        cls, median_tokens: float, mean_tokens: float, **clip: int
    ) -> Self:
        """The distribution with this median and mean: mean/median = exp(log_std²/2)."""
        if not mean_tokens >= median_tokens:
            raise InputError(
                "mean_tokens", mean_tokens, f"a number >= {median_tokens:g}"
            )
        _check_positive("median_tokens", median_tokens)
        log_std = math.sqrt(2 * math.log(mean_tokens / median_tokens))
        return cls(median_tokens=median_tokens, log_std=log_std, **clip)

    @classmethod
    def from_mean_cv(cls, mean_tokens: float, cv: float, **clip: int) -> Self:
        """The distribution with this mean and coefficient of variation."""
        if not cv >= 0:
            raise InputError("cv", cv, "a number >= 0")
        log_std = math.sqrt(math.log1p(cv * cv))
        return cls(
            median_tokens=mean_tokens / math.hypot(1, cv), log_std=log_std, **clip
        )

    @classmethod
    def from_file_form(cls, data: object, *, file: str | None = None) -> Self:
        """Read one of the pairs named in the class docstring, with an optional clip."""
        form = from_fields(_FileForm, data, file=file)
        clip = {"min_tokens": form.min_tokens, "max_tokens": form.max_tokens}
        given = {
            name
            for name in ("median_tokens", "mean_tokens", "p90_tokens", "cv", "log_std")
            if getattr(form, name) is not None
        }
        match (form.median_tokens, form.mean_tokens):
            case (float(median), None) if form.p90_tokens and len(given) == 2:
                return cls.from_median_p90(median, form.p90_tokens, **clip)
            case (float(median), None) if form.log_std is not None and len(given) == 2:
                return cls(median_tokens=median, log_std=form.log_std, **clip)
            case (float(median), float(mean)) if len(given) == 2:
                return cls.from_median_mean(median, mean, **clip)
            case (None, float(mean)) if form.cv is not None and len(given) == 2:
                return cls.from_mean_cv(mean, form.cv, **clip)
        raise InputError(
            "",
            sorted(given),
            "two of: median_tokens with p90_tokens, mean_tokens or log_std, "
            "or mean_tokens with cv",
        )

    @property
    def mean_tokens(self) -> float:
        """Mean of the clipped distribution (rounding ignored).

        With X lognormal(mu, s) clipped to [a, b]:
        a·P(X<a) + b·P(X>b) + exp(mu + s²/2)·(Phi(z_b − s) − Phi(z_a − s)).
        """
        low, high = float(self.min_tokens), float(self.max_tokens)
        if self.log_std == 0:
            return min(max(self.median_tokens, low), high)
        z_low = math.log(low / self.median_tokens) / self.log_std
        z_high = math.log(high / self.median_tokens) / self.log_std
        cdf = _STANDARD.cdf
        middle = cdf(z_high - self.log_std) - cdf(z_low - self.log_std)
        unclipped = self.median_tokens * math.exp(self.log_std**2 / 2)
        return low * cdf(z_low) + high * cdf(-z_high) + unclipped * middle

    def tokens(self, normals: FloatArray) -> IntArray:
        """Lengths of standard normal numbers, shape ``(num_requests,)`` both."""
        lengths = np.rint(self.median_tokens * np.exp(self.log_std * normals))
        return lengths.clip(self.min_tokens, self.max_tokens).astype(np.int64)


def _check_positive(key: str, value: float) -> None:
    if not value > 0:
        raise InputError(key, value, "a number > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileForm:
    """The keys a file may use for a `Lognormal`."""

    median_tokens: float | None = spec("Median.", unit="tokens", default=None)
    mean_tokens: float | None = spec("Mean.", unit="tokens", default=None)
    p90_tokens: float | None = spec("90th percentile.", unit="tokens", default=None)
    cv: float | None = spec("Standard deviation / mean.", unit="1", default=None)
    log_std: float | None = spec("Of the logarithm.", unit="1", default=None)
    min_tokens: int = spec("Lower clip.", unit="tokens", default=1)
    max_tokens: int = spec("Upper clip.", unit="tokens", default=1_000_000)
