"""Length distributions: how long prompts and answers are.

Every distribution draws request by request from its generator, so the first 300 of
600 requests are the 300 that the same seed gives alone. Searches rely on that when
they simulate more requests at a higher rate.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, Self

import numpy as np

from clusters.fields import InputError, check_fields, spec
from planner.workload.lognormal import Lognormal
from planner.workload.requests import MAX_TOKENS, IntArray, Requests
from planner.workload.trace_source import TraceSource


class LengthDistribution(Protocol):
    """Where the lengths of requests come from."""

    @property
    def mean_input_tokens(self) -> float:
        """Mean prompt length."""

    @property
    def mean_output_tokens(self) -> float:
        """Mean answer length."""

    def draw(
        self, num_requests: int, rng: np.random.Generator
    ) -> tuple[IntArray, IntArray]:
        """Prompt and answer lengths, shape ``(num_requests,)`` each, at least 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedLengths:
    """Every request has the same lengths."""

    input_tokens: int = spec("Prompt length.", unit="tokens", ge=1, le=MAX_TOKENS)
    output_tokens: int = spec("Answer length.", unit="tokens", ge=1, le=MAX_TOKENS)
    kind: Literal["fixed"] = spec("Tag in files.", default="fixed")

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def mean_input_tokens(self) -> float:
        """The prompt length."""
        return float(self.input_tokens)

    @property
    def mean_output_tokens(self) -> float:
        """The answer length."""
        return float(self.output_tokens)

    def draw(
        self, num_requests: int, rng: np.random.Generator
    ) -> tuple[IntArray, IntArray]:
        """Equal lengths; the generator is not used."""
        return (
            np.full(num_requests, self.input_tokens, dtype=np.int64),
            np.full(num_requests, self.output_tokens, dtype=np.int64),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LognormalLengths:
    """Lognormal prompt and answer lengths, independent or correlated."""

    input: Lognormal = spec("Prompt length.")
    output: Lognormal = spec("Answer length.")
    correlation: float = spec(
        "Correlation of the two logarithms.", unit="1", ge=-1, le=1, default=0.0
    )
    kind: Literal["lognormal"] = spec("Tag in files.", default="lognormal")

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def mean_input_tokens(self) -> float:
        """Mean prompt length after clipping."""
        return self.input.mean_tokens

    @property
    def mean_output_tokens(self) -> float:
        """Mean answer length after clipping."""
        return self.output.mean_tokens

    def draw(
        self, num_requests: int, rng: np.random.Generator
    ) -> tuple[IntArray, IntArray]:
        """Two normal numbers a request, made correlated, then lengths."""
        normals = rng.standard_normal((num_requests, 2))
        independent_part = np.sqrt(1 - self.correlation**2)
        output_normals = (
            self.correlation * normals[:, 0] + independent_part * normals[:, 1]
        )
        return self.input.tokens(normals[:, 0]), self.output.tokens(output_normals)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmpiricalLengths:
    """Pairs of lengths drawn from a pool, so that what belongs together stays together.

    Attributes
    ----------
    input_tokens, output_tokens
        The pool, shape ``(num_pairs,)`` each.
    with_replacement
        Draw each pair independently. Otherwise the pool is shuffled and dealt, and
        shuffled again when it is used up, which estimates percentiles with less noise.
    source
        The file that the pool was read from, if any.
    """

    input_tokens: IntArray
    output_tokens: IntArray
    with_replacement: bool = spec("Draw pairs independently.", default=False)
    source: TraceSource | None = spec("File of the pool.", default=None)

    def __post_init__(self) -> None:
        num = len(self.input_tokens)
        if num == 0:
            raise InputError("input_tokens", 0, "at least one pair of lengths")
        if len(self.output_tokens) != num:
            raise InputError("output_tokens", len(self.output_tokens), f"{num} entries")
        for key in ("input_tokens", "output_tokens"):
            pool = getattr(self, key)
            for extreme in (int(pool.min()), int(pool.max())):
                if not 1 <= extreme <= MAX_TOKENS:
                    raise InputError(key, extreme, f"numbers from 1 to {MAX_TOKENS}")

    @classmethod
    def of(
        cls,
        requests: Requests,
        *,
        with_replacement: bool = False,
        source: TraceSource | None = None,
    ) -> Self:
        """The pool of lengths of recorded requests."""
        return cls(
            input_tokens=requests.input_tokens,
            output_tokens=requests.output_tokens,
            with_replacement=with_replacement,
            source=source,
        )

    @property
    def mean_input_tokens(self) -> float:
        """Mean prompt length of the pool."""
        return float(self.input_tokens.mean())

    @property
    def mean_output_tokens(self) -> float:
        """Mean answer length of the pool."""
        return float(self.output_tokens.mean())

    def draw(
        self, num_requests: int, rng: np.random.Generator
    ) -> tuple[IntArray, IntArray]:
        """Pairs of the pool, dealt or drawn."""
        num_pairs = len(self.input_tokens)
        if self.with_replacement:
            index = rng.integers(num_pairs, size=num_requests)
        else:
            num_deals = -(-num_requests // num_pairs)
            deals = [rng.permutation(num_pairs) for _ in range(num_deals)]
            index = np.concatenate(deals)[:num_requests]
        return self.input_tokens[index], self.output_tokens[index]
