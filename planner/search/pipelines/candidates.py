"""Candidates: replicas of unlike stages that promise most, one deployment each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from clusters.fields import InputError, spec
from models.latency.library import LatencyUnavailableError
from planner.deployment import Deployment, ReplicaShape
from planner.pipelines.costs import TypicalLoad
from planner.pipelines.stage_costs import Place, StageCatalog, StageKind
from planner.pipelines.unlike_split import Line, Split, split_of
from planner.placement import FreeGpus, StageGpus
from planner.search.contract import Ledger
from planner.search.pipelines.recipes import (
    Recipe,
    holds_model,
    recipes,
    shape_of,
)
from planner.serving import Planner, stage_types
from planner.simulator.system import Phase

MAX_RECIPES = 160
"""Recipes whose layers are dealt out; of more, those with the most memory rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlike:
    """One replica of unlike stages, and what it promises."""

    alone: Deployment = spec("The replica in a place.")
    promised_rps: float = spec("Rate of its slowest stage.", unit="requests/s")
    num_replicas: int = spec("Replicas like it that fit.", unit="replicas")

    @property
    def total_rps(self) -> float:
        """Promise of all that fit."""
        return self.promised_rps * self.num_replicas

    @property
    def per_gpu_rps(self) -> float:
        """Promise for each GPU."""
        return self.promised_rps / self.alone.num_gpus


@dataclass(slots=True)
class UnlikeReplicas:
    """Makes replicas of unlike stages for one problem; remembers costs of stages."""

    planner: Planner
    catalog: StageCatalog = field(init=False)
    load: TypicalLoad = field(init=False)

    def __post_init__(self) -> None:
        problem = self.planner.problem
        service = problem.service
        self.catalog = StageCatalog(
            llm=service.llm,
            library=self.planner.library,
            memory=problem.engine.memory,
        )
        self.load = TypicalLoad(
            input_tokens=service.workload.mean_input_tokens,
            output_tokens=service.workload.mean_output_tokens,
        )

    def best(
        self, free: FreeGpus, phase: Phase, num: int, ledger: Ledger
    ) -> list[Unlike]:
        """The replicas on free GPUs that promise most for a phase.

        In turn those that promise most when repeated, and those that promise most for
        each GPU. Every other recipe is counted in `ledger` with the reason.
        """
        problem = self.planner.problem
        listed = recipes(problem, free)
        holding = [recipe for recipe in listed if holds_model(problem, recipe)]
        ledger.reject("too little memory for the model", len(listed) - len(holding))
        holding.sort(key=lambda recipe: -_memory_rate(recipe))
        why = "promises less than those simulated"
        ledger.reject(why, max(0, len(holding) - MAX_RECIPES))
        found = []
        for recipe in holding[:MAX_RECIPES]:
            unlike = self._unlike(free, recipe, phase, ledger)
            if unlike is not None:
                found.append(unlike)
        chosen = _chosen(found, num)
        ledger.reject(why, len(found) - len(chosen))
        return chosen

    def _unlike(
        self, free: FreeGpus, recipe: Recipe, phase: Phase, ledger: Ledger
    ) -> Unlike | None:
        even = shape_of(recipe, phase)
        stage_gpus = free.copy().take_replica(even)
        if stage_gpus is None:
            ledger.reject("does not fit the nodes")
            return None
        try:
            split = self.split(even, stage_gpus)
        except InputError:  # no way joins two stages
            ledger.reject("does not fit the nodes")
            return None
        except LatencyUnavailableError as error:
            ledger.reject(f"no latency: {error}")
            return None
        if split is None:
            ledger.reject("too little memory for the model")
            return None
        shape = shape_of(recipe, phase, split.layers)
        alone = self.planner.deploy_if_joined([shape], [stage_gpus])
        if alone is None:
            ledger.reject("does not fit the nodes")
            return None
        return Unlike(
            alone=alone,
            promised_rps=split.rate_rps,
            num_replicas=max(1, free.most_replicas(shape)),
        )

    def split(self, shape: ReplicaShape, stage_gpus: StageGpus) -> Split | None:
        """Layers of a replica's stages; None when they cannot hold the model.

        Raises
        ------
        InputError
            When no way joins two stages that follow each other.
        LatencyUnavailableError
            When no source covers a GPU type.
        """
        problem = self.planner.problem
        topology = problem.cluster.topology
        links = topology.group_links(stage_gpus)
        last = len(stage_gpus) - 1
        stages = []
        for index, gpu in enumerate(stage_types(topology, stage_gpus)):
            ring, tp = links.tp[index], len(stage_gpus[index])
            place = Place.FIRST if index == 0 else Place.MIDDLE
            kind = StageKind(gpu=gpu, tp=tp, ring=ring)
            costs = self.catalog.costs(kind, Place.LAST if index == last else place)
            if costs is None:
                return None
            stages.append(costs)
        return split_of(
            Line(llm=problem.service.llm, stages=tuple(stages), hops=links.pp),
            self.load,
            shape.phase,
            max_requests=problem.engine.limits.max_num_seqs,
            tpot_ms=problem.service.slo.tpot_ms,
        )


def _memory_rate(recipe: Recipe) -> float:
    """Memory rate of the GPUs of as many such replicas as fit, roughly."""
    copies = min(kind.num_groups // n for kind, n in recipe)
    rate = sum(kind.gpu.memory_bytes_per_s * kind.tp * n for kind, n in recipe)
    return rate * copies


def _chosen(found: Sequence[Unlike], num: int) -> list[Unlike]:
    """The first `num`, by both orders in turn."""
    by_total = sorted(found, key=lambda u: (-u.total_rps, u.alone.num_gpus))
    by_gpu = sorted(found, key=lambda u: (-u.per_gpu_rps, u.alone.num_gpus))
    chosen: list[Unlike] = []
    for pair in zip_longest(by_total, by_gpu):
        for each in pair:
            if each is not None and each not in chosen and len(chosen) < num:
                chosen.append(each)
    return chosen
