"""Groupings: GPUs in groups with a phase each, and what they promise together."""

from collections import Counter
from dataclasses import dataclass, replace

from clusters.fields import spec
from planner.objective import Goal
from planner.problem import Problem
from planner.search.hexgen2.kv_flow import GroupFlow, KvFlows
from planner.search.hexgen2.strategy import Strategies, Strategy
from planner.search.ratios import Mix, RatedShape, gpu_budget, is_mix_within
from planner.simulator.system import Phase


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Group:
    """GPUs that run one replica of a phase, or none; mostly of one type."""

    gpus: tuple[int, ...] = spec("In rising order.")
    phase: Phase | None = spec("What it does; None: nothing.")


Grouping = tuple[Group, ...]


def grouping_of(groups: list[Group]) -> Grouping:
    """Groups in the order of their GPUs, without empty ones."""
    return tuple(sorted((g for g in groups if g.gpus), key=lambda g: g.gpus))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A grouping with its replicas and what they promise."""

    grouping: Grouping = spec("The groups.")
    strategies: tuple[Strategy | None, ...] = spec("Replica of each group.")
    flow: GroupFlow = spec("Flow from prefill to decode.")
    mix: Mix = spec("All replicas, with the flow as the promise.")
    rank: tuple[float, ...] = spec(
        "Sort key: the smaller, the better.", unit="of the goal"
    )

    def of(self, phase: Phase) -> list[int]:
        """Indices of the groups that run a replica of a phase."""
        return [
            index
            for index, (group, strategy) in enumerate(
                zip(self.grouping, self.strategies, strict=True)
            )
            if group.phase is phase and strategy is not None
        ]

    def replicas(self, phase: Phase) -> list[Strategy]:
        """Replicas of a phase, in the order of their groups."""
        found = [self.strategies[index] for index in self.of(phase)]
        return [strategy for strategy in found if strategy is not None]

    def slack_rps(self, index: int) -> float:
        """What a group could serve beside its flow; 0 for one without a replica."""
        strategy, phase = self.strategies[index], self.grouping[index].phase
        if strategy is None or phase is None:
            return 0.0
        is_prefill = phase is Phase.PREFILL
        flows = self.flow.prefilled_rps if is_prefill else self.flow.decoded_rps
        return strategy.rated.rate_rps - flows[self.of(phase).index(index)]

    def unused(self, index: int) -> tuple[int, ...]:
        """GPUs of a group that its replica leaves idle."""
        strategy = self.strategies[index]
        used = set(strategy.gpus) if strategy is not None else set()
        return tuple(gpu for gpu in self.grouping[index].gpus if gpu not in used)


class Judge:
    """Judges groupings by their flow; each once.

    `prefill_factor` multiplies the rates of prefill replicas: a joint SLO, and KV
    caches under way, make one phase harder than it is alone.
    """

    def __init__(
        self,
        problem: Problem,
        strategies: Strategies,
        flows: KvFlows,
        prefill_factor: float = 1.0,
    ) -> None:
        self._problem = problem
        self._strategies = strategies
        self._flows = flows
        self._factor = prefill_factor
        self.known: dict[Grouping, Judged | None] = {}
        self._seen: dict[Group, Strategy] = {}
        self._promises: dict[Grouping, tuple[float, ...]] = {}

    def judge(
        self, grouping: Grouping, *, better_than: Judged | None = None
    ) -> Judged | None:
        """What a grouping promises; None when it is not allowed or serves nothing.

        With `better_than` also None when no flow could make it rank before that, which
        is told without one: no flow exceeds the rates of either phase together.
        """
        if grouping in self.known:
            return self.known[grouping]
        if better_than is not None:
            promise = self._promises.get(grouping)
            if promise is not None and promise >= better_than.rank:
                return None
        strategies = tuple(self._strategy(group) for group in grouping)
        of_phase = {
            phase: [
                strategy
                for group, strategy in zip(grouping, strategies, strict=True)
                if strategy is not None and group.phase is phase
            ]
            for phase in (Phase.PREFILL, Phase.DECODE)
        }
        prefills, decodes = of_phase[Phase.PREFILL], of_phase[Phase.DECODE]
        if not (prefills and decodes) or not self._is_allowed(prefills, decodes):
            self.known[grouping] = None
            return None
        totals_rps = [sum(s.rated.rate_rps for s in each) for each in of_phase.values()]
        counts = tuple(Counter(s.rated for s in (*prefills, *decodes)).items())
        if better_than is not None:
            promise = self._rank(_mix(counts, min(totals_rps)), sum(totals_rps))
            self._promises[grouping] = promise
            if promise >= better_than.rank:
                return None
        flow = self._flows.flow(prefills, decodes)
        mix = _mix(counts, flow.rate_rps)
        self.known[grouping] = Judged(
            grouping=grouping,
            strategies=strategies,
            flow=flow,
            mix=mix,
            rank=self._rank(mix, sum(totals_rps)),
        )
        return self.known[grouping]

    def _strategy(self, group: Group) -> Strategy | None:
        """The replica of a group, with its rate as this judge sees it."""
        if group.phase is None:
            return None
        if group not in self._seen:
            found = self._strategies.best(group.gpus, group.phase)
            if found is None:
                return None  # a stopped search has not looked; the other is remembered
            if group.phase is Phase.PREFILL and self._factor != 1.0:
                rate_rps = found.rated.rate_rps * self._factor
                found = replace(found, rated=replace(found.rated, rate_rps=rate_rps))
            self._seen[group] = found
        return self._seen[group]

    def _rank(self, mix: Mix, spare_rps: float) -> tuple[float, ...]:
        """Rank of the mix; of equal rates the one with more to spare.

        A higher rate of the phase that does not bind is a step towards the next gain.
        """
        rank = mix.rank(self._problem)
        # Two digits: only what is clearly more is worth a step.
        spare = float(f"{spare_rps:.2g}")
        if self._problem.objective.goal is Goal.MAX_GOODPUT:
            return (rank[0], -spare, *rank[1:])
        return (*rank, -spare)

    def _is_allowed(self, prefills: list[Strategy], decodes: list[Strategy]) -> bool:
        """Whether the limits of the search space are kept."""
        num_gpus = sum(s.rated.num_gpus for s in (*prefills, *decodes))
        most = self._problem.search.max_replicas
        if most is not None and max(len(prefills), len(decodes)) > most:
            return False
        if num_gpus > gpu_budget(self._problem):
            return False
        used = Counter(s.rated for s in (*prefills, *decodes))
        return is_mix_within(self._problem, _mix(tuple(used.items()), 0.0))


def _mix(counts: tuple[tuple[RatedShape, int], ...], rate_rps: float) -> Mix:
    """A mix; its rate rounded, so that rounding and trifles do not rank equal ones."""
    return Mix(counts=counts, promised_rps=float(f"{rate_rps:.4g}"))
