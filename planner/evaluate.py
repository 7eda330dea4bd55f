"""Evaluator: the one place where deployments are simulated, for search and report."""

from dataclasses import dataclass, field, replace

from planner.cell_runs import simulate_cells
from planner.cells import CellKind, cell_kinds, is_of_cells
from planner.deployment import Deployment
from planner.evaluation import Evaluation, summarize
from planner.goodput import (
    SCREENING,
    Effort,
    Goodput,
    Verdicts,
    goodput,
    meets,
    rate_limit_rps,
    total,
)
from planner.serving import Planner
from planner.simulator.build import SimulationOptions
from planner.simulator.outcome import SimulationResult
from planner.simulator.outside_schedule import OutsideEvent, flipped
from planner.simulator.simulate import simulate
from planner.simulator.system import ServingSystem
from planner.slo import Slo
from planner.workload.requests import Requests


@dataclass(slots=True)
class Evaluator:
    """Simulates deployments of one problem; remembers what it has simulated."""

    planner: Planner
    seed: int = 0
    effort: Effort = SCREENING
    num_evaluations: int = 0
    _goodputs: dict[tuple[ServingSystem, Slo, Effort, float], Goodput] = field(
        default_factory=dict
    )
    _verdicts: dict[tuple[ServingSystem, Slo], Verdicts] = field(default_factory=dict)
    _cells: dict[int, tuple[Deployment, tuple[CellKind, ...]]] = field(
        default_factory=dict
    )

    def goodput(
        self,
        deployment: Deployment,
        *,
        effort: Effort | None = None,
        floor_rps: float = 0.0,
    ) -> Goodput:
        """Highest rate within the SLO of the problem's service.

        Cells of a large deployment (`planner.cells`) are judged apart and add up.
        """
        slo = self.planner.problem.service.slo
        if is_of_cells(len(deployment.replicas)):
            parts = [
                (self.system_goodput(kind.system, slo, effort=effort), len(kind.cells))
                for kind in self._kinds(deployment)
            ]
            return total(parts)
        return self.system_goodput(
            self.planner.system(deployment), slo, effort=effort, floor_rps=floor_rps
        )

    def system_goodput(
        self,
        system: ServingSystem,
        slo: Slo,
        *,
        effort: Effort | None = None,
        floor_rps: float = 0.0,
        near_rps: float = 0.0,
    ) -> Goodput:
        """Highest rate at which any system meets `slo` on the problem's workload.

        A guess of it, `near_rps`, saves runs.
        """
        effort = effort or self.effort
        key = (system, slo, effort, floor_rps)
        if key not in self._goodputs:
            self.num_evaluations += 1
            self._goodputs[key] = goodput(
                system,
                self.planner.problem.service.workload,
                slo,
                effort=effort,
                seed=self.seed,
                floor_rps=floor_rps,
                near_rps=near_rps,
                verdicts=self._verdicts.setdefault((system, slo), {}),
            )
            if self._goodputs[key].rate_rps > 0:  # a floor that was met does not matter
                self._goodputs.setdefault(
                    (system, slo, effort, 0.0), self._goodputs[key]
                )
        return self._goodputs[key]

    def known_rps(self, system: ServingSystem, slo: Slo) -> float:
        """What `system_goodput` found for it before; 0 when it has not been asked."""
        found = self._goodputs.get((system, slo, self.effort, 0.0))
        return 0.0 if found is None else found.rate_rps

    def _kinds(self, deployment: Deployment) -> tuple[CellKind, ...]:
        """Cells of a large deployment, told by identity: its hash takes long."""
        if id(deployment) not in self._cells:
            kinds = cell_kinds(self.planner, deployment)
            self._cells[id(deployment)] = (deployment, kinds)
        return self._cells[id(deployment)][1]

    def rate_limit_rps(
        self, deployment: Deployment, *, slo: Slo | None = None
    ) -> float:
        """Rate that `goodput` of a deployment cannot exceed, without simulating it.

        With an `slo` the one of the goodput for it.
        """
        workload = self.planner.problem.service.workload
        system = self.planner.system(deployment)
        return max(
            rate_limit_rps(
                system, workload, effort=self.effort, seed=self.seed + run, slo=slo
            )
            for run in range(self.effort.num_seeds)
        )

    def is_met_at(self, deployment: Deployment, rate_rps: float) -> bool:
        """Whether the SLO is met at a rate, in a run of the screening length."""
        service, system = self.planner.problem.service, self.planner.system(deployment)
        num_requests = self.effort.num_requests(rate_rps)
        known = self._verdicts.setdefault((system, service.slo), {})
        key = (self.seed, num_requests, rate_rps)
        if key not in known:
            self.num_evaluations += 1
            requests = service.workload.draw(
                num_requests, seed=self.seed, rate_rps=rate_rps
            )
            known[key] = meets(system, requests, service.slo)
        return known[key]

    def evaluate(
        self,
        deployment: Deployment,
        requests: Requests,
        *,
        offered_rps: float | None = None,
        events: tuple[OutsideEvent, ...] = (),
    ) -> Evaluation:
        """Simulate `requests` (drawn at `offered_rps`) to the end and summarise.

        Raises
        ------
        InputError
            Naming the first of the `events` from outside that cannot be.
        """
        result = self.simulated(deployment, requests, events=events)
        found = summarize(
            self.planner,
            deployment,
            result,
            num_events=len(events),
            freely=self.freely(deployment, requests, events=events),
        )
        return replace(found, offered_rps=offered_rps)

    def freely(
        self,
        deployment: Deployment,
        requests: Requests,
        *,
        events: tuple[OutsideEvent, ...] = (),
    ) -> SimulationResult | None:
        """The same simulation with every request let in; None: that is so anyway."""
        problem = self.planner.problem
        if problem.engine.admission is None:
            return None
        engine = replace(problem.engine, admission=None)
        planner = replace(self.planner, problem=replace(problem, engine=engine))
        open_to_all = Evaluator(planner=planner, seed=self.seed)
        return open_to_all.simulated(deployment, requests, events=events)

    def simulated(
        self,
        deployment: Deployment,
        requests: Requests,
        *,
        events: tuple[OutsideEvent, ...] = (),
        max_spans: int = 0,
    ) -> SimulationResult:
        """Simulate `requests` to the end, with the first `max_spans` steps on record.

        Large deployments are simulated by their cells, without a record.

        Raises
        ------
        InputError
            Naming the first of the `events` from outside that cannot be.
        """
        workload = self.planner.problem.service.workload
        options = SimulationOptions(
            concurrency=workload.concurrency,
            ramp_ms=workload.ramp_ms,
            events=events,
            is_itl_counted=True,
            max_spans=max_spans,
        )
        if is_of_cells(len(deployment.replicas)) and options.concurrency is None:
            kinds = self._kinds(deployment)
            return simulate_cells(
                kinds, requests, seed=self.seed, events=events, is_itl_counted=True
            )
        system = self.planner.system(deployment, switching=flipped(events))
        return simulate(system, requests, options=options)
