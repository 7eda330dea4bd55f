"""Finalists: groupings simulated whole, and the simulated ones improved by moves.

The flow adds up rates of single phases. What it cannot see (a joint SLO, KV caches
under way, a router that shares work out among unlike replicas) the simulator does, so
the last steps are taken on its word, among neighbours in the order of their flows.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest

from planner.search.contract import Candidate
from planner.search.hexgen2.grouping import Judge, Judged
from planner.search.hexgen2.moves import Neighbours
from planner.search.hexgen2.placed import deployments
from planner.search.hexgen2.swaps import proposals
from planner.search.ratios import Mix
from planner.search.refine import Simulated
from planner.simulator.system import Phase

_MAX_NEIGHBOURS = 400
"""Neighbours of a grouping that are ordered by their flows."""

Replicas = frozenset[tuple[str, int]]


@dataclass(slots=True)
class Finals:
    """Groupings simulated whole, each set of replicas once."""

    simulated: Simulated
    judges: Sequence[Judge]
    best: Judged | None = None
    best_candidate: Candidate | None = None
    seen: set[Replicas] = field(default_factory=set)

    @property
    def num_left(self) -> int:
        """Simulations that a search that has to end may still do: one, if none was."""
        if self.simulated.context.should_stop():
            return 0 if self.simulated.candidates else 1
        return 1_000_000

    def simulate(self, judged: Judged) -> bool:
        """Simulate a grouping; whether it is the best so far."""
        problem = self.simulated.context.problem
        self.seen.add(_replicas(judged.mix))
        is_best = False
        for deployment in deployments(self.simulated.context.evaluator.planner, judged):
            if self.num_left == 0:
                break
            candidate = self.simulated.try_deployment(deployment)
            best = self.best_candidate
            if candidate is None:
                continue
            if best is None or candidate.rank(problem) < best.rank(problem):
                self.best, self.best_candidate, is_best = judged, candidate, True
        return is_best

    def simulate_most_promising(self, num: int) -> None:
        """Simulate `num` groupings, an equal part by each judge.

        First the best of every way to deal the GPU types out to the phases, since the
        flow errs alike on those that are dealt out alike; then the best of the others.
        """
        by_judge = [_dealt_first(judge.known.values()) for judge in self.judges]
        num_done = 0
        for judged in _interleaved(by_judge):
            if num_done == num or self.num_left == 0:
                return
            if _replicas(judged.mix) not in self.seen:
                self.simulate(judged)
                num_done += 1

    def climb(self, moves: Neighbours, num: int) -> None:
        """Move to better neighbours of the best until `num` have been simulated."""
        num_done = 0
        while self.best is not None:
            start = self.best
            for judged in self._neighbours(moves, start):
                if num_done == num or self.num_left == 0:
                    return
                if _replicas(judged.mix) in self.seen:
                    continue
                num_done += 1
                if self.simulate(judged):
                    break
            if self.best is start:
                return

    def _neighbours(self, moves: Neighbours, start: Judged) -> Iterator[Judged]:
        """Neighbours by their flows, the judges taking turns."""
        found: list[list[Judged]] = []
        for judge in self.judges:
            own = judge.judge(start.grouping)
            if own is None:
                continue
            near = islice(proposals(moves, own), _MAX_NEIGHBOURS)
            judged = [judge.judge(each) for each in near]
            kept = [each for each in judged if each is not None]
            found.append(sorted(kept, key=_order))
        return _interleaved(found)


def _order(judged: Judged) -> tuple[tuple[float, ...], list[tuple[int, ...]]]:
    return judged.rank, [group.gpus for group in judged.grouping]


def _dealt_first(known: Iterable[Judged | None]) -> list[Judged]:
    """By rank; the first of every set of (GPU type, phase) before all others."""
    ranked = sorted((each for each in known if each is not None), key=_order)
    firsts: dict[frozenset[tuple[str, Phase]], Judged] = {}
    for judged in ranked:
        dealt = frozenset(
            (rated.shape.gpu_type, rated.shape.phase) for rated, _ in judged.mix.counts
        )
        firsts.setdefault(dealt, judged)
    chosen = list(firsts.values())
    return chosen + [each for each in ranked if each not in chosen]


def _interleaved(lists: Sequence[Sequence[Judged]]) -> Iterator[Judged]:
    """The first of every list, then the second of every list, ..."""
    for row in zip_longest(*lists):
        yield from (each for each in row if each is not None)


def _replicas(mix: Mix) -> Replicas:
    """What a mix consists of, without rates."""
    return frozenset((str(rated.shape), number) for rated, number in mix.counts)
