"""Objective: what the planner optimises, and how two answers are compared."""

from dataclasses import dataclass
from enum import StrEnum

from clusters.fields import spec


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The goal of a plan."""

    goal: Goal = spec("What to optimise.", default=Goal.MAX_GOODPUT_PER_GPU)

    @property
    def needs_rate(self) -> bool:
        """Whether the workload must say the rate to serve."""
        return self.goal in (Goal.MIN_GPUS, Goal.MIN_COST)
