"""StepTable: how long one step of one pipeline stage takes, whatever the source.

Every latency source (roofline, published coefficients, fits, measurements) compiles to
this shape, and the simulator reads nothing else:

    prefill(L_1..L_n) = F(sum L_i) + c * sum (L_i**2 + 2 * L_i * past_i)
    decode(C_1..C_B)  = G(B) + H(B) * sum C_i

A step that does both shares the linear layers among all its tokens, adds the attention
of both, and what a decode step has beside its linear layers (the language model head
and the sampler work on a row for each decode; a chunk has one row or none):

    mixed = F(sum L_i + B) + c * sum (L_i**2 + 2 * L_i * past_i)
            + max(0, G(B) - F(B)) + H(B) * sum C_i

Without decodes that is prefill. Without chunks the law is decode, as decode steps alone
may run in another way (captured graphs). Where mixed steps were measured, `mixed` holds
what they take beyond this law (`models.latency.profile_mixed`).

F, G and H are piecewise linear through knots and continue with their last slope beyond
the last one. `L_i` are new prompt tokens, `past_i` tokens already in the KV cache, and
`C_i` the tokens a decoding request attends to (its context with the new token).
Because a step is linear in the KV tokens, k decode steps of an unchanged batch have a
closed form, which is what makes the simulator's fast-forward exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clusters.fields import InputError, check_fields, spec
from models.latency.mixed_extra import MixedExtra

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTable:
    """Step latency of one pipeline stage on one set of GPUs.

    Attributes that are tuples of the same length are knots and values, in order.
    """

    prefill_tokens: tuple[float, ...] = spec("Knots of F.", unit="tokens")
    prefill_ms: tuple[float, ...] = spec("F at its knots.", unit="ms")
    prefill_per_sq_token_ms: float = spec(
        "c: time per squared prompt token.", unit="ms/token^2", ge=0, default=0.0
    )
    decode_batch: tuple[float, ...] = spec("Knots of G and H.", unit="requests")
    decode_ms: tuple[float, ...] = spec("G at its knots.", unit="ms")
    decode_per_kv_token_ms: tuple[float, ...] = spec("H at its knots.", unit="ms/token")
    mixed: MixedExtra | None = spec(
        "What measured mixed steps take beyond the law; None: nothing is known of it.",
        default=None,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        _check_knots("prefill_tokens", self.prefill_tokens)
        _check_knots("decode_batch", self.decode_batch)
        _check_values("prefill_ms", self.prefill_ms, self.prefill_tokens)
        _check_values("decode_ms", self.decode_ms, self.decode_batch)
        _check_values(
            "decode_per_kv_token_ms", self.decode_per_kv_token_ms, self.decode_batch
        )

    def prefill_step_ms(
        self, new_tokens: Sequence[int], past_tokens: Sequence[int] | None = None
    ) -> float:
        """Latency of a prefill step over prompts with `new_tokens` each, in ms."""
        tokens = float(np.sum(new_tokens))
        linear = interpolate(tokens, self.prefill_tokens, self.prefill_ms)
        return linear + self._chunk_attention_ms(new_tokens, past_tokens)

    def decode_step_ms(self, num_requests: int, kv_tokens: float) -> float:
        """Latency of a decode step that attends to `kv_tokens` in all, in ms."""
        fixed = interpolate(num_requests, self.decode_batch, self.decode_ms)
        slope = interpolate(
            num_requests, self.decode_batch, self.decode_per_kv_token_ms
        )
        return fixed + slope * kv_tokens

    def mixed_step_ms(
        self,
        new_tokens: Sequence[int],
        past_tokens: Sequence[int] | None,
        num_decodes: int,
        kv_tokens: float,
    ) -> float:
        """Latency of a step of prompt chunks and decodes together, in ms.

        Parameters
        ----------
        new_tokens, past_tokens
            Tokens of each chunk, and those of its prompt already in the KV cache.
        num_decodes, kv_tokens
            Requests that decode, and the tokens they attend to in all.
        """
        if num_decodes == 0:
            return self.prefill_step_ms(new_tokens, past_tokens)
        if len(new_tokens) == 0:
            return self.decode_step_ms(num_decodes, kv_tokens)
        tokens = sum(new_tokens) + num_decodes
        linear = interpolate(tokens, self.prefill_tokens, self.prefill_ms)
        shared = interpolate(num_decodes, self.prefill_tokens, self.prefill_ms)
        fixed = interpolate(num_decodes, self.decode_batch, self.decode_ms)
        decodes = self.decode_step_ms(num_decodes, kv_tokens)
        attention = self._chunk_attention_ms(new_tokens, past_tokens)
        law_ms = linear + attention + decodes - min(fixed, shared)
        if self.mixed is None:
            return law_ms
        added_ms, slope_ms = self._mixed_at(np.array([float(num_decodes)]))
        squares_ms = self.mixed_per_sq_token_ms * _squares(new_tokens, past_tokens)
        return linear + squares_ms + float(added_ms[0] + slope_ms[0] * kv_tokens)

    @property
    def mixed_per_sq_token_ms(self) -> float:
        """Time per squared token of the chunks of a mixed step, in ms/token^2."""
        extra = 0.0 if self.mixed is None else self.mixed.per_sq_token_ms
        return max(0.0, self.prefill_per_sq_token_ms + extra)

    def mixed_arrays(self, max_requests: int) -> tuple[FloatArray, FloatArray]:
        """What B decodes add to a step with chunks beside their tokens, and H there.

        Arrays of shape (max_requests + 1,), 0 for no decode.
        """
        added, slope = self._mixed_at(np.arange(max_requests + 1, dtype=np.float64))
        added[0] = slope[0] = 0.0
        return added, slope

    def _mixed_at(self, batch: FloatArray) -> tuple[FloatArray, FloatArray]:
        fixed = interpolate_array(batch, self.decode_batch, self.decode_ms)
        slope = interpolate_array(batch, self.decode_batch, self.decode_per_kv_token_ms)
        shared = interpolate_array(batch, self.prefill_tokens, self.prefill_ms)
        added = np.maximum(0.0, fixed - shared)
        if self.mixed is not None:
            extra_ms, extra_slope = self.mixed.at(batch)
            added = np.maximum(0.0, added + extra_ms)
            slope = np.maximum(0.0, slope + extra_slope)
        return added, slope

    def _chunk_attention_ms(
        self, new_tokens: Sequence[int], past_tokens: Sequence[int] | None
    ) -> float:
        return self.prefill_per_sq_token_ms * _squares(new_tokens, past_tokens)

    def decode_arrays(self, max_requests: int) -> tuple[FloatArray, FloatArray]:
        """G and H at every batch size, as arrays of shape (max_requests + 1,)."""
        sizes = np.arange(max_requests + 1, dtype=np.float64)
        fixed = interpolate_array(sizes, self.decode_batch, self.decode_ms)
        slope = interpolate_array(sizes, self.decode_batch, self.decode_per_kv_token_ms)
        return fixed, slope

    def scaled(self, factor: float) -> Self:
        """The same table with every latency multiplied by `factor`."""
        return type(self)(
            prefill_tokens=self.prefill_tokens,
            prefill_ms=tuple(v * factor for v in self.prefill_ms),
            prefill_per_sq_token_ms=self.prefill_per_sq_token_ms * factor,
            decode_batch=self.decode_batch,
            decode_ms=tuple(v * factor for v in self.decode_ms),
            decode_per_kv_token_ms=tuple(
                v * factor for v in self.decode_per_kv_token_ms
            ),
            mixed=None if self.mixed is None else self.mixed.scaled(factor),
        )


def _squares(new_tokens: Sequence[int], past_tokens: Sequence[int] | None) -> float:
    """Sum of L_i**2 + 2 * L_i * past_i."""
    new = np.asarray(new_tokens, dtype=np.float64)
    past = np.zeros_like(new) if past_tokens is None else np.asarray(past_tokens)
    return float((new * new + 2.0 * new * past).sum())


def interpolate(x: float, knots: Sequence[float], values: Sequence[float]) -> float:
    """Piecewise-linear value at `x`, continued with the outer slopes (floor: 0)."""
    return float(interpolate_array(np.asarray([x], dtype=np.float64), knots, values)[0])


def interpolate_array(
    x: FloatArray, knots: Sequence[float], values: Sequence[float]
) -> FloatArray:
    """Piecewise-linear values at `x` (any shape), continued with the last slope.

    Below the first knot the first value holds: a step of one token costs what the
    smallest measured step costs.
    """
    xs = np.asarray(knots, dtype=np.float64)
    ys = np.asarray(values, dtype=np.float64)
    inside = np.interp(x, xs, ys)
    if len(xs) < 2:
        return inside
    slope = (ys[-1] - ys[-2]) / (xs[-1] - xs[-2])
    beyond = np.maximum(ys[-1] + slope * (x - xs[-1]), 0.0)
    return np.where(x > xs[-1], beyond, inside)


def _check_knots(key: str, knots: tuple[float, ...]) -> None:
    array = np.asarray(knots, dtype=np.float64)
    rising = len(array) > 0 and np.isfinite(array).all() and (np.diff(array) > 0).all()
    if not rising or array[0] < 0:
        raise InputError(key, knots, "finite knots >= 0 in strictly rising order")


def _check_values(
    key: str, values: tuple[float, ...], knots: tuple[float, ...]
) -> None:
    array = np.asarray(values, dtype=np.float64)
    if len(values) != len(knots) or not np.isfinite(array).all() or (array < 0).any():
        raise InputError(key, values, f"{len(knots)} finite values >= 0, one a knot")
