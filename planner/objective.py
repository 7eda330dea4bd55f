"""Objective: what the planner optimises, and how two answers are compared.

The one place that says what a goal is worth for a plan, and which of two plans ranks
first; candidates, mixes of replicas and results all ask here.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from clusters.fields import InputError, check_fields, spec


class Goal(StrEnum):
    """What a plan is to be best at."""

    MAX_GOODPUT = "max_goodput"
    """Most requests per second within the SLO on the whole cluster."""
    MAX_GOODPUT_PER_GPU = "max_goodput_per_gpu"
    """Most requests per second within the SLO for each GPU used."""
    MIN_GPUS = "min_gpus"
    """Fewest GPUs that serve the workload's rate within the SLO."""
    MIN_COST = "min_cost"
    """Least $/h that serves the workload's rate within the SLO."""
    MIN_POWER = "min_power"
    """Least power (board limits of the GPUs) that serves the rate within the SLO."""

    @property
    def is_upper(self) -> bool:
        """Whether more is better, so that bounds lie above."""
        return self in (Goal.MAX_GOODPUT, Goal.MAX_GOODPUT_PER_GPU)

    @property
    def needs_rate(self) -> bool:
        """Whether it serves a rate that the workload says."""
        return not self.is_upper


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """What a deployment serves and takes: all that goals look at."""

    rate_rps: float = spec("Goodput.", unit="requests/s", ge=0)
    num_gpus: int = spec("GPUs.", unit="GPUs", ge=0)
    usd_per_hour: float | None = spec(
        "Price; None: not known.", unit="usd/h", default=None
    )
    power_w: float | None = spec(
        "Board power limits of its GPUs; None: not known.", unit="W", default=None
    )

    def value(self, goal: Goal) -> float | None:
        """Value of a goal; None when it is a price or a power that is not known."""
        match goal:
            case Goal.MAX_GOODPUT:
                return self.rate_rps
            case Goal.MAX_GOODPUT_PER_GPU:
                return self.rate_rps / self.num_gpus
            case Goal.MIN_GPUS:
                return float(self.num_gpus)
            case Goal.MIN_COST:
                return self.usd_per_hour
            case Goal.MIN_POWER:
                return self.power_w

    def cost(self, goal: Goal) -> float:
        """The same, the smaller the better; infinity when it is not known."""
        value = self.value(goal)
        if value is None:
            return math.inf
        return -value if goal.is_upper else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The goal of a plan."""

    goal: Goal = spec("What to optimise.", default=Goal.MAX_GOODPUT_PER_GPU)
    then: Goal | None = spec(
        "What decides among plans that are as good at the goal; None: fewer GPUs, then "
        "more goodput.",
        default=None,
    )
    give_up_frac: float = spec(
        "Share of the goal that may be given up for `then`.",
        unit="1",
        ge=0,
        lt=1,
        default=0.0,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.then in (self.goal, Goal.MAX_GOODPUT_PER_GPU):
            others = [g for g in Goal if g not in (self.goal, Goal.MAX_GOODPUT_PER_GPU)]
            raise InputError("then", str(self.then), f"one of {', '.join(others)}")
        if self.give_up_frac > 0 and self.then is None:
            raise InputError("give_up_frac", self.give_up_frac, "0 without a `then`")

    @property
    def goals(self) -> tuple[Goal, ...]:
        """The goal, and what decides after it."""
        return (self.goal,) if self.then is None else (self.goal, self.then)

    @property
    def needs_rate(self) -> bool:
        """Whether the workload must say the rate to serve."""
        return self.goal.needs_rate

    @property
    def needs_prices(self) -> bool:
        """Whether the price of every node must be known."""
        return Goal.MIN_COST in self.goals

    @property
    def needs_power(self) -> bool:
        """Whether the power of every GPU must be known."""
        return Goal.MIN_POWER in self.goals

    def rank(self, amounts: Amounts, target_rps: float | None) -> tuple[float, ...]:
        """Sort key of what serves something: the smaller, the better.

        Goals with a target rate put what reaches it first, and the others after by the
        rate they reach.
        """
        rate, gpus = amounts.rate_rps, float(amounts.num_gpus)
        is_short = self.needs_rate and rate < (target_rps or 0.0)
        if is_short:
            return (1.0, -rate, gpus)
        keys = [amounts.cost(goal) for goal in self.goals]
        if Goal.MIN_GPUS not in self.goals:
            keys.append(gpus)
        if not self.needs_rate:
            return tuple(keys)
        return (0.0, *keys, -rate)

    def is_as_good(self, amounts: Amounts, best: Amounts) -> bool:
        """Whether no more of the goal than allowed is given up against the best."""
        ours, theirs = amounts.value(self.goal), best.value(self.goal)
        if ours is None or theirs is None:
            return ours is theirs
        if self.goal.is_upper:
            return ours >= theirs * (1.0 - self.give_up_frac)
        return ours * (1.0 - self.give_up_frac) <= theirs
