"""Teams: machines of several kinds that hold the same layers side by side."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

from clusters.fields import check_fields, spec
from planner.pipelines.fleet import Fleet

_ROUNDING = 1e-12
"""Relative; sums of the same rates in another order still count as equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """One stage of a staged layout."""

    num_layers: int = spec("Layers that each of its machines holds.", unit="layers")
    counts: tuple[int, ...] = spec("Machines of each kind.", unit="machines")
    tokens_per_s: float = spec("Their rates together.", unit="tokens/s", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def size(self) -> int:
        """Number of its machines."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Machines to make teams of: kinds, how many of each, and their rates."""

    names: tuple[str, ...] = spec("Name of each kind.")
    counts: tuple[int, ...] = spec("Machines of each kind.", unit="machines")
    rates: tuple[tuple[float, ...], ...] = spec(
        "Tokens/s of each kind by the layers held, from one on.", unit="tokens/s"
    )

    @classmethod
    def of(cls, fleet: Fleet, machines: Sequence[int] | None = None) -> Self:
        """The machines of a fleet (or some of them), behind their adapters."""
        members = range(fleet.num_machines) if machines is None else machines
        first: dict[str, int] = {}
        counts: Counter[str] = Counter()
        for machine in members:
            name = fleet.kinds[machine].name
            first.setdefault(name, machine)
            counts[name] += 1
        rates = tuple(
            tuple(
                fleet.machine_tokens_per_s(machine, held)
                for held in range(1, fleet.kinds[machine].max_layers + 1)
            )
            for machine in first.values()
        )
        return cls(names=tuple(counts), counts=tuple(counts.values()), rates=rates)

    def with_layers_frac(self, frac: float) -> "Pool":
        """The same machines, none with more than this share of its most layers."""
        rates = tuple(own[: max(1, round(frac * len(own)))] for own in self.rates)
        return replace(self, rates=rates)

    @property
    def max_layers(self) -> int:
        """Most layers that any of the machines holds."""
        return max(len(rates) for rates in self.rates)

    @property
    def num_machines(self) -> int:
        """Number of machines."""
        return sum(self.counts)

    def rates_at(self, num_layers: int) -> tuple[float, ...]:
        """Rate of a machine of each kind with `num_layers`; 0: it cannot hold them."""
        return tuple(
            rates[num_layers - 1] if num_layers <= len(rates) else 0.0
            for rates in self.rates
        )

    def team(self, num_layers: int, counts: Sequence[int]) -> Team:
        """A team of this pool."""
        rates = self.rates_at(num_layers)
        total = sum(n * rate for n, rate in zip(counts, rates, strict=True))
        return Team(num_layers=num_layers, counts=tuple(counts), tokens_per_s=total)


def all_teams(
    pool: Pool, max_size: int, *, least: float = 0.0, most: float = math.inf
) -> Iterator[Team]:
    """Teams of at most `max_size` machines that reach `least`.

    None has a machine that could be spared at `most`, a rate that nothing exceeds.
    """
    for num_layers in range(1, pool.max_layers + 1):
        rates = pool.rates_at(num_layers)
        ranges = [
            range(min(count, max_size) + 1 if rate else 1)
            for count, rate in zip(pool.counts, rates, strict=True)
        ]
        for counts in itertools.product(*ranges):
            if not 0 < sum(counts) <= max_size:
                continue
            team = pool.team(num_layers, counts)
            if team.tokens_per_s >= least and not _can_spare(team, rates, most):
                yield team


def teams_for(pool: Pool, rate: float, max_size: int) -> list[Team]:
    """Teams that reach `rate` and of which no machine could be spared."""
    found: list[Team] = []
    for num_layers in range(1, pool.max_layers + 1):
        rates = pool.rates_at(num_layers)
        for counts in _reaching(pool.counts, rates, rate, max_size):
            team = pool.team(num_layers, counts)
            if not _can_spare(team, rates, rate):
                found.append(team)
    return found


def _reaching(
    available: Sequence[int], rates: Sequence[float], rate: float, size: int
) -> Iterator[tuple[int, ...]]:
    """Counts whose rates add up to `rate`, no more of each kind than that takes."""
    if not rates:
        return
    first, rest = rates[0], (0,) * (len(rates) - 1)
    for count in range(min(available[0], size) + 1 if first else 1):
        left = rate - count * first
        if left <= _ROUNDING * rate:
            yield (count, *rest)
            return
        for tail in _reaching(available[1:], rates[1:], left, size - count):
            yield (count, *tail)


def _can_spare(team: Team, rates: Sequence[float], rate: float) -> bool:
    """Whether the team reaches `rate` with a machine less."""
    enough = rate * (1.0 - _ROUNDING)
    return any(
        count and team.tokens_per_s - own >= enough
        for count, own in zip(team.counts, rates, strict=True)
    )


def reinforced(pool: Pool, stages: Sequence[Team]) -> tuple[Team, ...]:
    """The stages with the idle machines added, each where the rate is lowest."""
    teams = list(stages)
    idle = list(pool.counts)
    for team in teams:
        idle = [left - used for left, used in zip(idle, team.counts, strict=True)]
    # The kinds that fit fewest stages choose first.
    for kind in sorted(range(len(idle)), key=lambda kind: len(pool.rates[kind])):
        for _ in range(idle[kind]):
            fitting = [
                i for i, t in enumerate(teams) if pool.rates_at(t.num_layers)[kind]
            ]
            if not fitting:
                break
            weakest = min(fitting, key=lambda i: teams[i].tokens_per_s)
            counts = list(teams[weakest].counts)
            counts[kind] += 1
            teams[weakest] = pool.team(teams[weakest].num_layers, counts)
    return tuple(teams)
