"""Explain: why a plan is what it is, what limits it, and what it is sensitive to."""

from dataclasses import dataclass, replace

import numpy as np

from clusters.fields import check_fields, spec
from models.latency.library import LatencyLibrary
from planner.evaluate import Evaluator
from planner.goodput import FINAL
from planner.max_kv_flow import routed_by_flow
from planner.neighbours import neighbours, ratio_of
from planner.plan import Plan
from planner.search.phases import phase_slo
from planner.serving import Planner
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase, Routing
from planner.slo import Attainment
from planner.solve import library_for
from planner.workload.requests import Requests

STEP_FRAC = 0.1
"""Size of the changes of the sensitivity table."""

_EFFORT = replace(FINAL, num_seeds=1, tolerance_frac=0.02)
"""As long as the plan's own simulations: a short run flatters overloaded replicas."""

_OVERLOAD = 1.05
"""How far beyond the goodput the first limit to break is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What happens to a plan when the workload changes."""

    change: str = spec("What changes.")
    attainment_frac: float = spec("Requests within all limits.", unit="1", ge=0, le=1)
    is_met: bool = spec("Whether the SLO is still met.")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseRoom:
    """What one pool alone could serve."""

    phase: Phase = spec("Phase.")
    shape: str = spec("Replicas.")
    capacity_rps: float = spec("Goodput of the pool alone.", unit="requests/s", ge=0)
    room_frac: float = spec("Beyond the plan's goodput.", unit="1")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioStep:
    """The plan with one replica more or fewer, the others staying where they are."""

    change: str = spec("What changes.")
    ratio: str = spec("Replicas it leaves, e.g. 2P1D.")
    num_gpus: int = spec("GPUs.", unit="GPUs", ge=1)
    goodput_rps: float = spec("Its goodput.", unit="requests/s", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def goodput_per_gpu_rps(self) -> float:
        """Goodput for each GPU."""
        return self.goodput_rps / self.num_gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Bottleneck, margins and sensitivity of a plan."""

    bottleneck: str = spec("What limits the goodput, in a sentence.")
    phases: tuple[PhaseRoom, ...] = spec("Room of each phase.")
    overload: Attainment = spec("Attainment 5 % beyond the goodput.")
    sensitivities: tuple[Sensitivity, ...] = spec("Changes of rate and lengths.")
    ratios: tuple[RatioStep, ...] = spec("The plan itself, then replicas changed.")


def explain(plan: Plan, latency: LatencyLibrary | None = None) -> Explanation:
    """Simulate a plan beside its operating point.

    Parameters
    ----------
    plan
        The plan.
    latency
        Where step latencies come from; None: as the plan's problem says.
    """
    problem = plan.problem
    planner = Planner(problem=problem, library=library_for(problem, latency))
    evaluator = Evaluator(planner=planner, seed=plan.seed)
    phases = _phase_rooms(evaluator, plan)
    overload = _attainment_at(evaluator, plan, plan.goodput.rate_rps * _OVERLOAD)
    return Explanation(
        bottleneck=_bottleneck(plan, phases, overload),
        phases=phases,
        overload=overload,
        sensitivities=_sensitivities(evaluator, plan),
        ratios=_ratio_steps(evaluator, plan),
    )


def _phase_rooms(evaluator: Evaluator, plan: Plan) -> tuple[PhaseRoom, ...]:
    """Goodput of each phase alone, the other one being infinitely fast."""
    slo = plan.problem.service.slo
    rooms = []
    for phase in Phase:
        part = phase_slo(slo, phase)
        replicas = plan.deployment.of_phase(phase)
        if not replicas or part is None:
            continue
        system = evaluator.planner.system(
            replace(plan.deployment, replicas=replicas, routes=())
        )
        rate = evaluator.system_goodput(system, part, effort=_EFFORT).rate_rps
        served = plan.goodput.rate_rps
        rooms.append(
            PhaseRoom(
                phase=phase,
                shape=" + ".join(
                    f"{len(pool.replicas)} x {pool.shape}"
                    for pool in plan.deployment.pools()
                    if pool.shape.phase is phase
                ),
                capacity_rps=rate,
                room_frac=rate / served - 1.0 if served > 0 else 0.0,
            )
        )
    return tuple(rooms)


def _attainment_at(evaluator: Evaluator, plan: Plan, rate_rps: float) -> Attainment:
    rate = max(rate_rps, 1e-6)
    requests = plan.problem.service.workload.draw(
        _EFFORT.num_requests(rate), seed=plan.seed, rate_rps=rate
    )
    return _attainment(evaluator, plan, requests)


def _attainment(evaluator: Evaluator, plan: Plan, requests: Requests) -> Attainment:
    system = evaluator.planner.system(plan.deployment)
    return plan.problem.service.slo.judge(simulate(system, requests))


def _bottleneck(plan: Plan, phases: tuple[PhaseRoom, ...], overload: Attainment) -> str:
    """Name the phase with the least room and the limit that breaks first."""
    shares = {
        "TTFT": overload.ttft_frac,
        "TPOT": overload.tpot_frac,
        "E2E": overload.e2e_frac,
    }
    known = {name: share for name, share in shares.items() if share is not None}
    broken = min(known, key=lambda name: known[name])
    text = f"{broken} breaks first: {known[broken]:.1%} within its limit at 105 % load"
    if len(phases) < 2:
        return text
    tight = min(phases, key=lambda room: room.room_frac)
    loose = max(phases, key=lambda room: room.room_frac)
    return (
        f"{tight.phase} limits the plan ({tight.capacity_rps:.2f} requests/s alone; "
        f"{loose.phase} alone would do {loose.capacity_rps:.2f}). {text}"
    )


def _ratio_steps(evaluator: Evaluator, plan: Plan) -> tuple[RatioStep, ...]:
    """Goodput of the plan and of its neighbours, all routed and simulated alike."""
    steps = {"as planned": plan.deployment}
    for change, changed_to in neighbours(evaluator.planner, plan.deployment).items():
        alike = None
        if plan.deployment.routing is Routing.FLOW_SHARES:
            alike = routed_by_flow(evaluator, changed_to)
        steps[change] = alike or changed_to
    return tuple(
        RatioStep(
            change=change,
            ratio=ratio_of(deployment),
            num_gpus=deployment.num_gpus,
            goodput_rps=evaluator.goodput(deployment, effort=_EFFORT).rate_rps,
        )
        for change, deployment in steps.items()
    )


def _sensitivities(evaluator: Evaluator, plan: Plan) -> tuple[Sensitivity, ...]:
    workload = plan.problem.service.workload
    base = workload.draw(
        plan.evaluation.num_requests,
        seed=plan.seed,
        rate_rps=plan.evaluation.rate_rps or None,
    )
    found = []
    for what in ("rate", "input length", "output length"):
        for factor in (1.0 - STEP_FRAC, 1.0 + STEP_FRAC):
            attained = _attainment(evaluator, plan, changed(base, what, factor))
            found.append(
                Sensitivity(
                    change=f"{what} {factor - 1.0:+.0%}",
                    attainment_frac=attained.joint_frac,
                    is_met=attained.is_met,
                )
            )
    return tuple(found)


def changed(requests: Requests, what: str, factor: float) -> Requests:
    """The same requests with their rate or one of their lengths scaled."""
    if what == "rate":
        return replace(requests, arrival_ms=requests.arrival_ms / factor)
    field = "input_tokens" if what == "input length" else "output_tokens"
    lengths = getattr(requests, field) * factor
    return replace(
        requests, **{field: np.maximum(1, np.rint(lengths)).astype(np.int64)}
    )
