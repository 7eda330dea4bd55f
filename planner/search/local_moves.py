"""Moves of the local search: replicas more or fewer, split, merged, flipped, swapped.

A move is a difference of numbers of replicas by shape; what it promises is the sums
before it plus that difference. A replica of unlike stages can also be taken apart, into
uniform replicas of one of its GPU types.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from clusters.fields import spec
from models.parallelism import Parallelism
from planner.deployment import ReplicaShape
from planner.objective import Amounts
from planner.search.ratios import RatedShape
from planner.search.refine import LARGE_POOL
from planner.simulator.system import Phase

ShapeKey = tuple[Phase, str, Parallelism]
"""Phase, GPU types of the stages, and how the model is split."""

Change = Mapping[ShapeKey, int]


def key_of(shape: ReplicaShape) -> ShapeKey:
    """A shape without its batching."""
    kinds = "+".join(shape.stage_gpu_types or (shape.gpu_type,))
    return shape.phase, kinds, shape.parallelism


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What replicas add up to; a change adds its difference."""

    rates_rps: Mapping[Phase, float] = spec("By phase.", unit="requests/s")
    replicas: Mapping[Phase, int] = spec("By phase.", unit="replicas")
    gpus: Mapping[str, int] = spec("By type.", unit="GPUs")
    usd_per_hour: float | None = spec("Price.", unit="usd/h", default=0.0)
    power_w: float | None = spec("Board limits.", unit="W", default=0.0)

    @classmethod
    def of(
        cls, counts: Mapping[ShapeKey, int], rated: Mapping[ShapeKey, RatedShape]
    ) -> "Sums":
        """The sums of some replicas."""
        return cls(rates_rps={}, replicas={}, gpus={}).changed(counts, rated)

    def changed(self, change: Change, rated: Mapping[ShapeKey, RatedShape]) -> "Sums":
        """The sums after a change, without adding up the rest again."""
        rates, replicas = Counter(self.rates_rps), Counter(self.replicas)
        gpus, usd, power = Counter(self.gpus), self.usd_per_hour, self.power_w
        for key, number in change.items():
            each = rated[key]
            rates[each.shape.phase] += each.rate_rps * number  # type: ignore[assignment]
            replicas[each.shape.phase] += number
            for name, held in each.shape.gpus_by_type.items():
                gpus[name] += held * number
            usd = _plus(usd, each.usd_per_hour, number)
            power = _plus(power, each.power_w, number)
        return Sums(
            rates_rps=rates,
            replicas=replicas,
            gpus=gpus,
            usd_per_hour=usd,
            power_w=power,
        )

    @property
    def amounts(self) -> Amounts:
        """What they promise and take: the slower phase, or all together."""
        phases = [p for p, n in self.replicas.items() if n > 0]
        rate = min((self.rates_rps.get(p, 0.0) for p in phases), default=0.0)
        return Amounts(
            rate_rps=max(0.0, rate),
            num_gpus=sum(self.gpus.values()),
            usd_per_hour=self.usd_per_hour,
            power_w=self.power_w,
        )


def _plus(total: float | None, each: float | None, number: int) -> float | None:
    return None if total is None or each is None else total + each * number


def moves(
    counts: Mapping[ShapeKey, int], rated: Mapping[ShapeKey, RatedShape]
) -> Iterator[Change]:
    """Every change of one kind, a few replicas of a large pool at a time."""
    for key, number in counts.items():
        some = max(1, number // LARGE_POOL)
        phase, gpu_type, _ = key
        size = rated[key].num_gpus
        yield {key: some}  # more
        yield {key: -some}  # fewer
        for other, each in rated.items():
            if other == key or (phase is Phase.AGGREGATED) != (
                other[0] is Phase.AGGREGATED
            ):
                continue
            alike = other[1] == gpu_type
            if alike and other[0] is phase and 2 * each.num_gpus == size:
                yield {key: -some, other: 2 * some}  # split
            elif alike and other[0] is phase and each.num_gpus == 2 * size:
                if number >= 2:
                    yield {key: -2 * some, other: some}  # merge
            elif each.num_gpus == size and alike:
                yield {key: -some, other: some}  # flip the phase, or change TP and PP
            elif alike and each.num_gpus < size:
                yield {key: -some, other: some * (size // each.num_gpus)}  # move GPUs
            else:
                yield {other: some}  # add another shape
        yield from _swaps(key, counts, rated)
        yield from _apart(key, rated)


def _swaps(
    key: ShapeKey, counts: Mapping[ShapeKey, int], rated: Mapping[ShapeKey, RatedShape]
) -> Iterable[Change]:
    """Replicas of unlike phases and GPU types exchange their phases."""
    phase, gpu_type, parallelism = key
    if phase is not Phase.PREFILL:
        return
    for other in counts:
        if other[0] is Phase.DECODE and other[1] != gpu_type:
            ours = (Phase.DECODE, gpu_type, parallelism)
            theirs = (Phase.PREFILL, other[1], other[2])
            if ours in rated and theirs in rated:
                change = Counter({key: -1, other: -1})
                change[ours] += 1
                change[theirs] += 1
                yield change


def _apart(key: ShapeKey, rated: Mapping[ShapeKey, RatedShape]) -> Iterable[Change]:
    """A replica of several GPU types gives way to uniform ones of one of them."""
    held = rated[key].shape.gpus_by_type
    if len(held) < 2:
        return
    for other, each in rated.items():
        is_same_kind = (key[0] is Phase.AGGREGATED) == (other[0] is Phase.AGGREGATED)
        number = held.get(other[1], 0) // each.num_gpus
        if is_same_kind and number:
            yield {key: -1, other: number}
