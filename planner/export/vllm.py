"""Export to vLLM: launch scripts with explicit flags, routers, and what to check."""

from collections.abc import Sequence

from planner.export.fingerprint import plan_sha256
from planner.export.instances import Instance, instances_of
from planner.export.nginx_split import (
    FIRST_SPLIT_PORT,
    SPLIT_SCRIPT,
    split_script,
)
from planner.export.vllm_readme import readme
from planner.export.vllm_router import router_script, routers_of
from planner.export.vllm_rules import caveats, why_not
from planner.export.vllm_scripts import (
    HOSTS_FILE,
    hosts_file,
    launch_script,
    script_name,
)
from planner.plan import Plan

VLLM_VERSION = "0.26"
"""First release with both NIXL connectors (pull and push)."""


class VllmExporter:
    """Exporter for vLLM with NIXL transfers and vllm-router."""

    target = "vllm"
    target_version = VLLM_VERSION

    def supports(self, plan: Plan) -> str | None:
        """None, or why vLLM has no flags for `plan`."""
        return why_not(plan)

    def caveats(self, plan: Plan) -> tuple[str, ...]:
        """Known incompatibilities, and differences from the simulation."""
        return caveats(plan)

    def export(self, plan: Plan) -> dict[str, str]:
        """Text of each file by its name."""
        return export_vllm(plan)


def export_vllm(
    plan: Plan, instances: Sequence[Instance] | None = None, *, first_router: int = 0
) -> dict[str, str]:
    """The files that serve a plan with vLLM.

    Parameters
    ----------
    plan
        A plan for which `VllmExporter.supports` answers None.
    instances
        Its replicas with their ports; None: ports as if nothing else ran on the nodes.
    first_router
        Number of the first router: others run before it.

    Returns
    -------
    dict[str, str]
        ``hosts.env``; a script for each replica and node; a router for each slice, or
        for each KV route and ``split.sh`` where the plan goes by shares; ``README.md``.
    """
    if instances is None:
        replicas = plan.deployment.replicas
        instances = instances_of(replicas, plan.problem.cluster.topology)
    stamp = f"phaseplan {plan.tool_version}, plan sha256 {plan_sha256(plan)}"
    files = {HOSTS_FILE: hosts_file(plan, instances, stamp)}
    for instance in instances:
        for rank in range(len(instance.parts)):
            script = launch_script(plan, instance, rank, stamp)
            files[script_name(instance, rank)] = script
    routers = routers_of(plan, instances, first=first_router)
    for router in routers:
        files[router.script_name] = router_script(plan, router, stamp)
    split_port = None
    if len(routers) > 1 and routers[0].share_frac is not None:
        split_port = FIRST_SPLIT_PORT + first_router
        files[SPLIT_SCRIPT] = split_script(routers, split_port, stamp)
    files["README.md"] = readme(
        plan, instances, routers, VLLM_VERSION, split_port=split_port
    )
    return files
