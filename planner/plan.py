"""Plan: a deployment with the evidence for it, complete enough to be replayed."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from clusters.fields import check_fields, spec
from planner.deployment import Deployment
from planner.evaluation import Evaluation
from planner.goodput import Goodput
from planner.kv_flow import KvFlow
from planner.problem import Problem
from planner.simulator.system import Routing
from planner.slo import Slo

PLAN_VERSION = "phaseplan/plan-v1"


class Status(StrEnum):
    """How good the best plan is known to be."""

    OPTIMAL = "OPTIMAL"
    """The best of its search space (exhaustive search only)."""
    FEASIBLE = "FEASIBLE"
    """Meets the SLO; nothing is claimed about better ones beyond the bound."""
    INFEASIBLE = "INFEASIBLE"
    """Proven impossible in the search space; the reasons say why."""
    NOT_FOUND = "NOT_FOUND"
    """Nothing met the SLO; the best effort is given."""

    @property
    def is_success(self) -> bool:
        """Whether there is a plan that meets the SLO."""
        return self in (Status.OPTIMAL, Status.FEASIBLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeEvidence:
    """Where the numbers of one replica shape come from."""

    shape: str = spec("Phase, GPU type and parallelism.")
    num_replicas: int = spec("Replicas of it.", unit="replicas", ge=1)
    latency_source: str = spec("Latency source.")
    latency_provenance: str = spec("datasheet, fitted, measured or published.")
    latency_reason: str = spec("Why this source.")
    expected_error_frac: float | None = spec(
        "Expected error of its latencies.", unit="1", default=None
    )
    weights_bytes: float = spec("Weights per GPU.", unit="bytes", ge=0)
    kv_capacity_tokens: int = spec("KV cache of a replica.", unit="tokens", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """The best of another method, for comparison on equal terms."""

    method: str = spec("Search method.")
    deployment: str = spec("What it deploys.")
    is_disaggregated: bool = spec("Whether phases are separate.")
    routing: Routing = spec(
        "How its requests were routed.", default=Routing.SHORTEST_QUEUE
    )
    num_gpus: int = spec("GPUs.", unit="GPUs", ge=1)
    goodput: Goodput = spec("Its goodput, as long and on as many seeds as the plan's.")
    usd_per_hour: float | None = spec("Price.", unit="usd/h", default=None)
    power_w: float | None = spec("Board power limits.", unit="W", default=None)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def goodput_per_gpu_rps(self) -> float:
        """Goodput for each GPU."""
        return self.goodput.rate_rps / self.num_gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodCounts:
    """What one method looked at: `num_enumerated == num_evaluated + sum(rejected)`."""

    method: str = spec("Search method.")
    num_enumerated: int = spec("Candidates.", unit="1", ge=0)
    num_evaluated: int = spec("Of them, simulated.", unit="1", ge=0)
    rejected: Mapping[str, int] = spec("The others, by reason.", unit="1")
    is_stopped: bool = spec("Whether it was stopped before its end.")
    why_skipped: str | None = spec("Why it did not run, if so.", default=None)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What more of something would add to the goal."""

    limit: str = spec("What there would be more of.")
    gain: float = spec("Gain of the goal for one more.", unit="of the goal", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationBound:
    """What whole replicas, at the rates simulated for them, can add up to.

    It bounds all allocations of replicas of these rates, not what a GPU can do.
    """

    value: float = spec(
        "No whole replicas on whole hosts add up to better (branch and bound); at "
        "least as good as the plan.",
        unit="of the goal",
    )
    whole_value: float = spec("Best whole allocation found.", unit="of the goal")
    relaxed_value: float | None = spec(
        "The same with replicas in parts (linear relaxation).",
        unit="of the goal",
        default=None,
    )
    whole_gap_frac: float = spec(
        "Distance of the whole allocation to the relaxation.", unit="1", ge=0
    )
    gap_frac: float | None = spec(
        "Distance of the simulated plan to `value`.", unit="1", ge=0, default=None
    )
    worth: tuple[Worth, ...] = spec("What would help, the most first.", default=())

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to deploy, and why it is believed to work."""

    api_version: str = spec("Format of the plan.", default=PLAN_VERSION)
    tool_version: str = spec("Version of phaseplan.")
    status: Status = spec("How good it is known to be.")
    reasons: tuple[str, ...] = spec("Why the status is what it is.", default=())
    seed: int = spec("Seed of every random draw.", unit="1", ge=0)
    method: str = spec("Search method that found it.")
    verdict: str = spec("Disaggregate or not, and by how much.")
    deployment: Deployment = spec("Replicas on GPUs, and KV routes.")
    goodput: Goodput = spec("Highest rate within the SLO.")
    evaluation: Evaluation = spec("Simulation of the workload.")
    nearest_slo: Slo | None = spec(
        "Where the SLO is missed, the least loosened one that is met.", default=None
    )
    usd_per_hour: float | None = spec("Price.", unit="usd/h", default=None)
    power_w: float | None = spec("Board power limits.", unit="W", default=None)
    bound: float | None = spec(
        "Best value of the goal that any plan could reach.",
        unit="of the goal",
        default=None,
    )
    gap_frac: float | None = spec(
        "Relative distance to the bound.", unit="1", ge=0, default=None
    )
    allocation: AllocationBound | None = spec(
        "Bound on whole replicas at simulated rates, and what would help most.",
        default=None,
    )
    kv_flow: KvFlow | None = spec(
        "What replicas and links carry together, by which routes, and what binds; "
        "None: no separate phases, or too many routes.",
        default=None,
    )
    alternatives: tuple[Alternative, ...] = spec("Best of the other kinds.", default=())
    counts: tuple[MethodCounts, ...] = spec("What the search looked at.", default=())
    evidence: tuple[ShapeEvidence, ...] = spec("Provenance by shape.")
    warnings: tuple[str, ...] = spec("What to be careful about.", default=())
    inputs_sha256: tuple[tuple[str, str], ...] = spec(
        "Hash of each input file.", default=()
    )
    problem: Problem = spec("The problem it answers.")

    def __post_init__(self) -> None:
        check_fields(self)
