"""Services whose phases are apart, in the files of a plan of several services.

Each has a folder with what `export_vllm` writes for a plan of one service, and ports
that nothing else in the plan has.
"""

from dataclasses import replace

from planner.evaluate import Evaluator
from planner.evidence import evidence_of, warnings_of
from planner.export.gpu_share import GpuShare
from planner.export.instances import Instance, instances_of
from planner.export.vllm import VllmExporter, export_vllm
from planner.multiplexing.apart_run import deployment_of, planner_of
from planner.multiplexing.clock import SPAN_S
from planner.multiplexing.llm_costs import CostBook
from planner.multiplexing.shared_phases import sharing_phases
from planner.multiplexing.shared_plan import SharedPlan
from planner.multiplexing.solve import book_of
from planner.plan import Plan
from planner.solve import library_for


def apart_plans(plan: SharedPlan) -> dict[str, Plan]:
    """A plan of its own for each service whose phases are apart, by service."""
    if not plan.placed.disaggregated:
        return {}
    book = book_of(plan.problem, library_for(plan.problem, None))
    return {name: _plan_of(plan, book, name) for name in plan.placed.disaggregated}


def _plan_of(plan: SharedPlan, book: CostBook, service: str) -> Plan:
    """The part of a plan that serves one service with phases apart."""
    planner = planner_of(book, service)
    deployment = deployment_of(book, plan.placed, service)
    evaluator = Evaluator(planner=planner, seed=plan.seed)
    rate = plan.placed.apart_rps(service)
    goodput = evaluator.goodput(deployment)
    if sharing_phases(plan.placed, [service]):  # others are on its GPUs
        goodput = replace(goodput, rate_rps=min(goodput.rate_rps, rate))
    requests = planner.problem.service.workload.draw(
        max(1, round(rate * SPAN_S)), seed=plan.seed, rate_rps=rate
    )
    return Plan(
        tool_version=plan.tool_version,
        status=plan.status,
        reasons=plan.reasons,
        seed=plan.seed,
        method=str(plan.method),
        verdict=f"part of a plan of several services: {plan.verdict}",
        deployment=deployment,
        goodput=goodput,
        evaluation=evaluator.evaluate(deployment, requests, offered_rps=rate),
        usd_per_hour=plan.problem.cluster.usd_per_hour(deployment.gpu_indices),
        evidence=evidence_of(planner, deployment),
        warnings=warnings_of(planner, deployment),
        problem=planner.problem,
    )


def why_not(plans: dict[str, Plan]) -> str | None:
    """Why vLLM has no flags for one of the services, or None."""
    for name, plan in plans.items():
        found = VllmExporter().supports(plan)
        if found:
            return f"{name}: {found}"
    return None


def instances_by_service(
    plan: SharedPlan, plans: dict[str, Plan]
) -> dict[str, tuple[Instance, ...]]:
    """Replicas of each service, with ports that no other replica on a node has."""
    replicas = [
        replica for each in plans.values() for replica in each.deployment.replicas
    ]
    left = instances_of(replicas, plan.problem.cluster.topology)
    found = {}
    for name, each in plans.items():
        num = len(each.deployment.replicas)
        found[name] = tuple(_with_share(plan, name, own) for own in left[:num])
        left = left[num:]
    return found


def _with_share(plan: SharedPlan, service: str, instance: Instance) -> Instance:
    """A replica with its part of the GPUs, where other services run on them."""
    gpus = instance.replica.gpu_indices
    placed = next(each for each in plan.placed.units if each.gpu_indices == gpus)
    if not placed.unit.is_shared:
        return instance
    member = next(each for each in placed.unit.members if each.service == service)
    of = next(each for each in plan.problem.services if each.name == service)
    return replace(instance, share=GpuShare.of(plan, placed, member, of))


def folder_of(index: int) -> str:
    """Folder of the files of a service with phases apart."""
    return f"apart-{index}"


def apart_files(
    plans: dict[str, Plan], instances: dict[str, tuple[Instance, ...]]
) -> dict[str, str]:
    """The files of all services with phases apart, each in a folder."""
    files = {}
    for index, (name, plan) in enumerate(plans.items()):
        own = export_vllm(plan, instances[name], first_router=index)
        for file, text in own.items():
            files[f"{folder_of(index)}/{file}"] = text
    return files


def apart_rows(
    plans: dict[str, Plan], instances: dict[str, tuple[Instance, ...]]
) -> list[tuple[str, str, str, float]]:
    """Folder, service, nodes and load of each, for a table."""
    rows = []
    for index, (name, plan) in enumerate(plans.items()):
        nodes = {
            part.node_name: None for each in instances[name] for part in each.parts
        }
        rate = plan.evaluation.offered_rps or 0.0
        rows.append((folder_of(index), name, ", ".join(nodes), rate))
    return rows
