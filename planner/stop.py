"""When a search stops: small objects that can be combined with `AnyOf`."""

import time
from dataclasses import dataclass, field
from typing import Protocol

from clusters.fields import check_fields, spec


class StoppingCriterion(Protocol):
    """Asked before every evaluation."""

    def is_met(self, num_evaluations: int, best: float | None) -> bool:
        """Whether to stop, given what has been done and the best value so far."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Never:
    """Run to the end."""

    def is_met(self, num_evaluations: int, best: float | None) -> bool:
        """Never."""
        return False


@dataclass(slots=True)
class MaxRuntime:
    """Stop after some seconds of wall time, counted from the first question."""

    max_s: float = spec("Wall time.", unit="s", gt=0)
    _start_s: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        check_fields(self)

    def is_met(self, num_evaluations: int, best: float | None) -> bool:
        """Whether the time is over."""
        now = time.monotonic()
        if self._start_s is None:
            self._start_s = now
        return now - self._start_s >= self.max_s


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxEvaluations:
    """Stop after a number of evaluations (goodput searches)."""

    num: int = spec("Evaluations.", unit="evaluations", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)

    def is_met(self, num_evaluations: int, best: float | None) -> bool:
        """Whether they are used up."""
        return num_evaluations >= self.num


@dataclass(slots=True)
class NoImprovement:
    """Stop when the best value has not changed for a number of evaluations.

    They are counted from the first value on: shapes are rated before there is one.
    """

    num: int = spec("Evaluations without a better one.", unit="evaluations", ge=1)
    _best: float | None = field(default=None, init=False)
    _since: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_fields(self)

    def is_met(self, num_evaluations: int, best: float | None) -> bool:
        """Whether nothing improved for long enough."""
        if best is None or best != self._best:
            self._best, self._since = best, num_evaluations
        return num_evaluations - self._since >= self.num


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetValue:
    """Stop when the best value has reached a target.

    It is the value of the goal; GPUs and price count negative, so higher is better.
    """

    value: float = spec("Value that is enough.", unit="of the objective")

    def __post_init__(self) -> None:
        check_fields(self)

    def is_met(self, num_evaluations: int, best: float | None) -> bool:
        """Whether it is reached."""
        return best is not None and best >= self.value


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Stop when any of several criteria is met."""

    criteria: tuple[StoppingCriterion, ...]

    def is_met(self, num_evaluations: int, best: float | None) -> bool:
        """Whether one of them is met (all are asked, so all keep count)."""
        return any([c.is_met(num_evaluations, best) for c in self.criteria])
