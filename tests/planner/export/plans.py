"""Small plans made by hand: real placement and routes, made-up goodput.

Nothing is simulated, so that no test waits for the simulator to compile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from clusters.mapping import from_mapping
from models.latency.library import LatencyLibrary
from models.parallelism import Parallelism
from planner.check import check_plan
from planner.deployment import Deployment, ReplicaShape
from planner.evaluation import Evaluation
from planner.flow_routing import with_shares
from planner.goodput import Goodput
from planner.kv_flow import RouteShare
from planner.plan import Plan, ShapeEvidence, Status
from planner.problem import Problem
from planner.serving import Planner
from planner.simulator.system import Phase
from planner.slo import Attainment

Place = tuple[Phase, str, tuple[tuple[int, ...], ...]]
"""Phase, GPU type, and GPUs of each pipeline stage."""


def problem_of(
    cluster: object,
    llm: object = "opt-13b",
    engine: Mapping[str, Any] | None = None,
    name: str = "chat",
) -> Problem:
    data = {
        "cluster": cluster,
        "services": [
            {
                "name": name,
                "llm": llm,
                "workload": {"lengths": "512x64", "rate_rps": 4},
            }
        ],
        "engine": dict(engine or {}),
    }
    return from_mapping(Problem, data)


def plan_of(
    problem: Problem, places: Sequence[Place], slices: Sequence[int] | None = None
) -> Plan:
    """A plan with replicas at these places; it holds (`check_plan`)."""
    shapes = [
        ReplicaShape(
            phase=phase,
            gpu_type=gpu_type,
            parallelism=Parallelism(tp=len(stages[0]), pp=len(stages)),
        )
        for phase, gpu_type, stages in places
    ]
    planner = Planner(problem=problem, library=LatencyLibrary.default())
    placed = [stages for _, _, stages in places]
    plan = with_deployment(problem, planner.deploy_at(shapes, placed, slices))
    check_plan(plan)
    return plan


def with_deployment(problem: Problem, deployment: Deployment) -> Plan:
    return Plan(
        tool_version="0.0.0",
        status=Status.FEASIBLE,
        seed=0,
        method="none",
        verdict="made for a test",
        deployment=deployment,
        goodput=Goodput(
            rate_rps=4.0,
            low_rps=4.0,
            high_rps=4.0,
            confidence_frac=0.0,
            num_seeds=1,
            capacity_rps=5.0,
        ),
        evaluation=Evaluation(
            rate_rps=4.0,
            num_requests=1,
            num_rejected=0,
            num_preemptions=0,
            attainment=Attainment(joint_frac=0.95, is_met=True),
            metrics=(),
            output_tokens_per_s=1.0,
            replicas=(),
        ),
        evidence=(
            ShapeEvidence(
                shape="any",
                num_replicas=1,
                latency_source="none",
                latency_provenance="published",
                latency_reason="made for a test",
                weights_bytes=0.0,
                kv_capacity_tokens=0,
            ),
        ),
        problem=problem,
    )


def tp(first: int, degree: int) -> tuple[tuple[int, ...], ...]:
    """One stage of `degree` GPUs, from `first` on."""
    return (tuple(range(first, first + degree)),)


@cache
def one_node() -> Plan:
    """1P1D on one NVSwitch node of four: OPT-13B, prefill TP2, decode TP1."""
    places = [
        (Phase.PREFILL, "a100_sxm", tp(0, 2)),
        (Phase.DECODE, "a100_sxm", tp(3, 1)),
    ]
    return plan_of(problem_of("a100_1x4"), places)


@cache
def two_nodes() -> Plan:
    """2P2D, prefill on one node and decode on the other: KV only over the network."""
    places = [
        (Phase.PREFILL, "h100_sxm", tp(0, 4)),
        (Phase.PREFILL, "h100_sxm", tp(4, 4)),
        (Phase.DECODE, "h100_sxm", tp(8, 4)),
        (Phase.DECODE, "h100_sxm", tp(12, 4)),
    ]
    return plan_of(problem_of("two_nodes_h100", "llama-3.1-70b"), places)


@cache
def pipeline() -> Plan:
    """Prefill of two stages on two nodes, decode on a third."""
    cluster = {"nodes": [{"type": "p4de.24xlarge", "count": 3}]}
    places = [
        (Phase.PREFILL, "a100_sxm", (tuple(range(8)), tuple(range(8, 16)))),
        (Phase.DECODE, "a100_sxm", tp(16, 8)),
    ]
    return plan_of(problem_of(cluster, "llama-3.1-70b"), places)


@cache
def aggregated() -> Plan:
    """Two replicas of OPT-13B that do both phases."""
    places = [
        (Phase.AGGREGATED, "a100_sxm", tp(0, 2)),
        (Phase.AGGREGATED, "a100_sxm", tp(2, 2)),
    ]
    return plan_of(problem_of("a100_1x4"), places)


@cache
def two_slices() -> Plan:
    """1P1D twice, each pair in a group of its own on one node."""
    places = [
        (Phase.PREFILL, "a100_sxm", tp(0, 1)),
        (Phase.PREFILL, "a100_sxm", tp(1, 1)),
        (Phase.DECODE, "a100_sxm", tp(2, 1)),
        (Phase.DECODE, "a100_sxm", tp(3, 1)),
    ]
    return plan_of(problem_of("a100_1x4"), places, slices=[0, 1, 0, 1])


@cache
def shares() -> Plan:
    """`two_nodes` by shares: prefill-0 to both decodes, prefill-1 to the second."""
    plan = two_nodes()
    planned = [
        RouteShare(source="prefill-0", target="decode-0", share_frac=0.4),
        RouteShare(source="prefill-0", target="decode-1", share_frac=0.1),
        RouteShare(source="prefill-1", target="decode-1", share_frac=0.5),
    ]
    shared = replace(plan, deployment=with_shares(plan.deployment, planned))
    check_plan(shared)
    return shared


PLANS = {
    "one_node": one_node,
    "two_nodes": two_nodes,
    "pipeline": pipeline,
    "aggregated": aggregated,
    "two_slices": two_slices,
    "shares": shares,
}
