"""Ratios: how many replicas of each shape, ranked by what their parts promise.

Replicas of a phase add up, so with x prefill replicas of goodput p and y decode
replicas of goodput d the whole can promise min(x*p, y*d). That is an estimate (a joint
SLO is harder, a shared queue is better); the simulator decides among the first few.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from clusters.fields import check_fields, spec
from planner.deployment import ReplicaShape
from planner.limits import why_too_much
from planner.objective import Amounts
from planner.placement import FreeGpus
from planner.problem import Problem

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedShape:
    """A replica shape with the goodput of one replica for its phase alone."""

    shape: ReplicaShape = spec("The shape.")
    rate_rps: float = spec("Goodput of one replica.", unit="requests/s", ge=0)
    light_load_frac: float = spec(
        "Good requests at a very low rate, where the goodput is 0.",
        unit="1",
        ge=0,
        le=1,
        default=1.0,
    )
    usd_per_hour: float | None = spec("Price.", unit="usd/h", default=None)
    power_w: float | None = spec("Board power limits.", unit="W", default=None)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def num_gpus(self) -> int:
        """GPUs of one replica."""
        return self.shape.parallelism.num_gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Numbers of replicas of some shapes."""

    counts: tuple[tuple[RatedShape, int], ...] = spec("Shapes and how many of each.")
    promised_rps: float = spec("Rate promised.", unit="requests/s", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def num_gpus(self) -> int:
        """GPUs of all replicas."""
        return sum(rated.num_gpus * count for rated, count in self.counts)

    @property
    def shapes(self) -> tuple[ReplicaShape, ...]:
        """One entry a replica."""
        return tuple(rated.shape for rated, n in self.counts for _ in range(n))

    @property
    def shape_counts(self) -> tuple[tuple[ReplicaShape, int], ...]:
        """Each shape and how many of it."""
        return tuple((rated.shape, number) for rated, number in self.counts)

    def rank(self, problem: Problem) -> tuple[float, ...]:
        """Sort key like `Candidate.rank`, on what is promised."""
        if self.promised_rps <= 0:
            nearly = min(rated.light_load_frac for rated, _ in self.counts)
            return (math.inf, -nearly, float(self.num_gpus))
        target = problem.service.workload.rate_rps
        return problem.objective.rank(self.amounts, target)

    @property
    def amounts(self) -> Amounts:
        """What it promises and takes."""
        return Amounts(
            rate_rps=self.promised_rps,
            num_gpus=self.num_gpus,
            usd_per_hour=_sum([(r.usd_per_hour, n) for r, n in self.counts]),
            power_w=_sum([(r.power_w, n) for r, n in self.counts]),
        )


def _sum(parts: Sequence[tuple[float | None, int]]) -> float | None:
    """Sum of values times numbers; None when one is not known."""
    known = [value * number for value, number in parts if value is not None]
    return sum(known) if len(known) == len(parts) else None


def pair_mixes(
    problem: Problem, prefills: Sequence[RatedShape], decodes: Sequence[RatedShape]
) -> list[Mix]:
    """All sensible x * prefill + y * decode of one shape each, best promise first."""
    room = Room.of(problem)
    mixes = [
        mix
        for prefill in prefills
        for decode in decodes
        for mix in _pair_counts(room, prefill, decode)
    ]
    return sorted(mixes, key=lambda mix: mix.rank(problem))


def single_mixes(problem: Problem, rated: Sequence[RatedShape]) -> list[Mix]:
    """All sensible numbers of replicas of one shape, best promise first."""
    room = Room.of(problem)
    mixes = []
    for each in rated:
        for count in _single_counts(room, each):
            promised = each.rate_rps * count
            mixes.append(Mix(counts=((each, count),), promised_rps=promised))
    return sorted(mixes, key=lambda mix: mix.rank(problem))


def best_of_each_type(rated: Sequence[RatedShape]) -> list[ReplicaShape]:
    """Of every GPU type the shape with the best rate per GPU, and the smallest one."""
    chosen: dict[ReplicaShape, None] = {}
    for gpu_type in dict.fromkeys(each.shape.gpu_type for each in rated):
        usable = [r for r in rated if r.shape.gpu_type == gpu_type and r.rate_rps > 0]
        if usable:
            best = max(usable, key=lambda r: (r.rate_rps / r.num_gpus, -r.num_gpus))
            least = min(usable, key=lambda r: (r.num_gpus, -r.rate_rps))
            chosen |= {best.shape: None, least.shape: None}
    return list(chosen)


def is_mix_within(problem: Problem, mix: Mix) -> bool:
    """Whether a mix keeps the limits on types, budget and power."""
    gpus: Counter[str] = Counter()
    for rated, number in mix.counts:
        for name, held in rated.shape.gpus_by_type.items():
            gpus[name] += held * number
    amounts = mix.amounts
    return why_too_much(problem, gpus, amounts.usd_per_hour, amounts.power_w) is None


def gpu_budget(problem: Problem) -> int:
    """GPUs that a plan may use."""
    total = problem.cluster.num_gpus
    return min(total, problem.search.max_gpus or total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """GPUs and replicas that a plan may use."""

    problem: Problem = spec("The problem.")
    free: FreeGpus = spec("All GPUs of the cluster.")

    @classmethod
    def of(cls, problem: Problem) -> Self:
        """All that a problem allows."""
        available = problem.search.available_gpus
        return cls(problem=problem, free=FreeGpus.of(problem.cluster, available))

    def most(
        self, rated: RatedShape, *, beside: RatedShape | None = None, count: int = 0
    ) -> int:
        """Most replicas of a shape, beside `count` replicas of another."""
        taken = count * beside.num_gpus if beside is not None else 0
        if rated.shape.has_unlike_stages or (
            beside is not None and beside.shape.has_unlike_stages
        ):
            return self._most_unlike(rated, beside, count)
        of_type = self.free.num_free(rated.shape.gpu_type)
        if beside is not None and beside.shape.gpu_type == rated.shape.gpu_type:
            of_type -= taken
        left = min(gpu_budget(self.problem) - taken, of_type) // rated.num_gpus
        limit = self.problem.search.max_replicas or left
        space = self.problem.search
        for budget, name in (
            (space.max_usd_per_hour, "usd_per_hour"),
            (space.max_power_w, "power_w"),
        ):
            each = getattr(rated, name)
            if budget is not None and each:
                spent = (getattr(beside, name) or 0.0) * count if beside else 0.0
                left = min(left, math.floor((budget - spent) / each + _ROUNDING))
        return max(0, min(limit, left, self.free.most_replicas(rated.shape)))

    def _most_unlike(
        self, rated: RatedShape, beside: RatedShape | None, count: int
    ) -> int:
        """The same where stages are of several types: by placing them."""
        left, taken = self.free.copy(), 0
        if beside is not None:
            for _ in range(count):
                if left.take_replica(beside.shape) is None:
                    return 0
            taken = count * beside.num_gpus
        fits = (gpu_budget(self.problem) - taken) // rated.num_gpus
        limit = self.problem.search.max_replicas or fits
        return max(0, min(limit, fits, left.most_replicas(rated.shape)))


def _pair_counts(room: Room, prefill: RatedShape, decode: RatedShape) -> Iterator[Mix]:
    """Of every number of prefill replicas, the decode replicas that match it.

    More decode replicas than match only idle; the next number down is kept too, since
    rounding decides which of the two phases is the bottleneck.
    """
    if prefill.rate_rps <= 0 or decode.rate_rps <= 0:
        # Nothing is promised, but a best effort needs candidates: one of each.
        if room.most(decode, beside=prefill, count=1) > 0:
            yield Mix(counts=((prefill, 1), (decode, 1)), promised_rps=0.0)
        return
    for x in range(1, room.most(prefill) + 1):
        left = room.most(decode, beside=prefill, count=x)
        matching = x * prefill.rate_rps / decode.rate_rps
        wanted = {math.floor(matching), math.ceil(matching)}
        for y in sorted({min(max(1, n), left) for n in wanted if left > 0}):
            promised = min(x * prefill.rate_rps, y * decode.rate_rps)
            counts = ((prefill, x), (decode, y))
            yield Mix(counts=counts, promised_rps=promised)
            if _is_enough(room.problem, promised):
                return


def _single_counts(room: Room, rated: RatedShape) -> Iterator[int]:
    """One replica, and as many as fit; with a target as many as it takes."""
    problem, most = room.problem, room.most(rated)
    if most == 0:
        return
    if rated.rate_rps <= 0:
        yield 1  # a best effort needs candidates
        return
    if not problem.objective.needs_rate:
        yield from sorted({1, most})
        return
    target = problem.service.workload.rate_rps or 0.0
    yield min(most, max(1, math.ceil(target / rated.rate_rps)))


def _is_enough(problem: Problem, promised_rps: float) -> bool:
    target = problem.service.workload.rate_rps
    return problem.objective.needs_rate and promised_rps >= (target or 0.0)
