"""Requests: what a simulation is fed, as plain arrays sorted by arrival."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clusters.fields import InputError, spec
from clusters.units import MS_PER_S
from planner.workload.prefix_blocks import PrefixBlocks
from planner.workload.turns import Turns

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MAX_TOKENS = 100_000_000
"""No prompt or answer is this long; a longer one is a slip in a file."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Requests:
    """A sequence of requests in order of arrival.

    Attributes
    ----------
    arrival_ms
        Arrival times, shape ``(num_requests,)``, not decreasing, in ms.
    input_tokens, output_tokens
        Prompt and output lengths, shape ``(num_requests,)``, at least 1. The first
        output token comes from the prefill step.
    prefix_blocks
        Which blocks of the prompts are shared (Mooncake traces), if known.
    turns
        Which requests are later turns of a session. They come last, and their arrival
        time, if later than any, is overruled by the end of the turn before.
    """

    arrival_ms: FloatArray = spec("Arrival times.", unit="ms")
    input_tokens: IntArray = spec("Prompt lengths.", unit="tokens")
    output_tokens: IntArray = spec("Answer lengths.", unit="tokens")
    prefix_blocks: PrefixBlocks | None = spec(
        "Blocks of each prompt that may be shared.", default=None
    )
    turns: Turns | None = spec("Which follow which in a session.", default=None)

    def __post_init__(self) -> None:
        num = len(self.arrival_ms)
        if num == 0:
            raise InputError("requests", 0, "at least one request")
        for key in ("input_tokens", "output_tokens"):
            lengths = getattr(self, key)
            if len(lengths) != num:
                raise InputError(key, len(lengths), f"{num} entries, one a request")
            if lengths.min() < 1:
                index = int(lengths.argmin())
                raise InputError(
                    f"{key}[{index}]", int(lengths[index]), "a number >= 1"
                )
            if lengths.max() > MAX_TOKENS:
                index = int(lengths.argmax())
                raise InputError(
                    f"{key}[{index}]", int(lengths[index]), f"a number <= {MAX_TOKENS}"
                )
        times = self.arrival_ms
        if not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) < 0).any():
            raise InputError("arrival_ms", "…", "finite times >= 0 in rising order")
        if self.prefix_blocks is not None and len(self.prefix_blocks) != num:
            raise InputError("prefix_blocks", len(self.prefix_blocks), f"{num} entries")
        if self.turns is not None and len(self.turns) != num:
            raise InputError("turns", len(self.turns), f"{num} entries")

    def __len__(self) -> int:
        return len(self.arrival_ms)

    @property
    def duration_ms(self) -> float:
        """Time from the first to the last arrival, in ms."""
        return float(self.arrival_ms[-1] - self.arrival_ms[0])

    @property
    def rate_rps(self) -> float:
        """Mean arrival rate in requests per second (0 when all arrive at once)."""
        if self.duration_ms == 0:
            return 0.0
        return (len(self) - 1) * MS_PER_S / self.duration_ms

    def at_rate(self, rate_rps: float) -> Self:
        """The same requests, every gap scaled so that the mean rate is `rate_rps`."""
        if self.duration_ms == 0:
            raise InputError(
                "rate_rps", rate_rps, "requests that do not all arrive at once"
            )
        factor = self.rate_rps / rate_rps
        start = self.arrival_ms[0]
        return replace(self, arrival_ms=(self.arrival_ms - start) * factor)

    def head(self, num_requests: int) -> Self:
        """The first `num_requests` requests."""
        return self.take(np.arange(min(num_requests, len(self))))

    def take(self, index: IntArray) -> Self:
        """The requests at `index`, which rises, shape ``(num_taken,)``."""
        blocks, turns = self.prefix_blocks, self.turns
        return replace(
            self,
            arrival_ms=self.arrival_ms[index],
            input_tokens=self.input_tokens[index],
            output_tokens=self.output_tokens[index],
            prefix_blocks=None if blocks is None else blocks.take(index),
            turns=None if turns is None else turns.take(index),
        )
