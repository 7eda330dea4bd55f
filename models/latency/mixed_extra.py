"""MixedExtra: what mixed steps were measured to take beyond the law of step tables.

Nothing but a measurement sets it (`models.latency.profile_mixed`). It is kept in ms
and not as factors, so that tables of parts that run one after the other add up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clusters.fields import InputError, check_fields, spec

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedExtra:
    """Time of a step of chunks and B decodes beside what the law says; may be less.

    Values between the knots are linear, and those beyond the ends as at the ends.
    """

    per_sq_token_ms: float = spec(
        "For each squared prompt token of the chunks.", unit="ms/token^2", default=0.0
    )
    batch: tuple[float, ...] = spec("Knots of the two below.", unit="requests")
    ms: tuple[float, ...] = spec("For B decodes.", unit="ms")
    per_kv_token_ms: tuple[float, ...] = spec(
        "For each token that they attend to.", unit="ms/token"
    )

    def __post_init__(self) -> None:
        check_fields(self)
        knots = np.asarray(self.batch, dtype=np.float64)
        if len(knots) == 0 or not (np.diff(knots) > 0).all():
            raise InputError("batch", self.batch, "knots in strictly rising order")
        for key in ("ms", "per_kv_token_ms"):
            values = np.asarray(getattr(self, key), dtype=np.float64)
            if len(values) != len(knots) or not np.isfinite(values).all():
                raise InputError(
                    key, getattr(self, key), f"{len(knots)} finite values, one a knot"
                )

    def at(self, batch: FloatArray) -> tuple[FloatArray, FloatArray]:
        """For so many decodes, and for a token of theirs: arrays of that shape."""
        return (
            np.interp(batch, self.batch, self.ms),
            np.interp(batch, self.batch, self.per_kv_token_ms),
        )

    def scaled(self, factor: float) -> Self:
        """All of it multiplied by `factor`."""
        return type(self)(
            per_sq_token_ms=self.per_sq_token_ms * factor,
            batch=self.batch,
            ms=tuple(v * factor for v in self.ms),
            per_kv_token_ms=tuple(v * factor for v in self.per_kv_token_ms),
        )


def add_extras(extras: Sequence[MixedExtra | None]) -> MixedExtra | None:
    """What parts that run one after the other take beyond the law; None: nothing."""
    known = [extra for extra in extras if extra is not None]
    if not known:
        return None
    batch = np.unique(np.concatenate([extra.batch for extra in known]))
    values = np.array([extra.at(batch) for extra in known]).sum(axis=0)
    return MixedExtra(
        per_sq_token_ms=sum(extra.per_sq_token_ms for extra in known),
        batch=tuple(batch.tolist()),
        ms=tuple(values[0].tolist()),
        per_kv_token_ms=tuple(values[1].tolist()),
    )
