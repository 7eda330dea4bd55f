"""README.md of a vLLM bundle: what runs where, in which order, and what to check."""

from collections.abc import Sequence

from clusters.units import GB
from planner.deployment import gpu_ranges
from planner.export.fingerprint import plan_sha256
from planner.export.instances import Instance
from planner.export.nginx_split import SPLIT_SCRIPT
from planner.export.shell import one_line
from planner.export.vllm_router import Router
from planner.export.vllm_rules import caveats
from planner.export.vllm_scripts import HOSTS_FILE, script_name
from planner.plan import Plan


def readme(
    plan: Plan,
    instances: Sequence[Instance],
    routers: Sequence[Router],
    version: str,
    *,
    split_port: int | None = None,
) -> str:
    """Guide to the scripts of a plan.

    `split_port` is that of `SPLIT_SCRIPT`, None: there is none.
    """
    sections = [
        _summary(plan, version),
        _caveats(plan),
        _preparation(plan, version),
        _scripts(instances, routers, split_port),
        _checks(plan, instances),
    ]
    return "\n\n".join(sections) + "\n"


def _summary(plan: Plan, version: str) -> str:
    service = plan.problem.service
    return "\n".join(
        [
            f"# {_text(service.name)}: {_text(service.llm.name)} on vLLM {version}",
            "",
            f"- Deployment: {_text(plan.deployment.describe())}",
            f"- Status: {_text(plan.status)} (method {_text(plan.method)})",
            f"- Verdict: {_text(plan.verdict)}",
            f"- Goodput: {plan.goodput.rate_rps:.2f} requests/s within the SLO",
            f"- Written by phaseplan {_text(plan.tool_version)}",
            f"- SHA-256 of the plan: `{plan_sha256(plan)}`",
        ]
    )


def _caveats(plan: Plan) -> str:
    items = [*caveats(plan), *plan.warnings]
    lines = [f"- {_text(item)}" for item in items] or ["None known."]
    return "\n".join(["## Know before you start", "", *lines])


def _preparation(plan: Plan, version: str) -> str:
    packages = "vLLM and vllm-router"
    if plan.deployment.is_disaggregated:
        packages = "vLLM with NIXL, and vllm-router"
    return "\n".join(
        [
            "## Prepare",
            "",
            f"1. Install the same {packages} on every node. The flags are those of "
            f"vLLM {version}.",
            f"2. Fill in `{HOSTS_FILE}`: the model, and the address of each node.",
            "3. Copy this folder to every node.",
            "4. Keep all ports below closed to the outside: the APIs have no password.",
        ]
    )


def _scripts(
    instances: Sequence[Instance], routers: Sequence[Router], split_port: int | None
) -> str:
    rows = []
    for instance in instances:
        for rank, part in enumerate(instance.parts):
            port = str(instance.http_port) if rank == 0 else "none"
            cells = (
                f"`{script_name(instance, rank)}`",
                _text(part.node_name),
                gpu_ranges(part.local_gpus),
                f"{_text(instance.replica.name)} ({instance.replica.shape.split})",
                port,
            )
            rows.append(f"| {' | '.join(cells)} |")
    clients = "Clients talk to the router's port."
    for router in routers:
        place = _text(router.place.node_name)
        share = "" if router.share_frac is None else f", {router.share_frac:.1%}"
        rows.append(
            f"| `{router.script_name}` | {place} | none | router of "
            f"{len(router.members)} replicas{share} | {router.http_port} |"
        )
    if split_port is not None:
        rows.append(f"| `{SPLIT_SCRIPT}` | any | none | NGINX | {split_port} |")
        clients = (
            f"`{SPLIT_SCRIPT}` shares the requests out over the routers, as much for "
            "each as the table says; it needs NGINX. Clients talk to its port."
        )
    return "\n".join(
        [
            "## Run",
            "",
            "Start every script on its node, in any order. More flags for vLLM may "
            f"follow the name of a script. {clients}",
            "",
            "| script | node | GPUs | runs | port |",
            "| --- | --- | --- | --- | --- |",
            *rows,
        ]
    )


def _checks(plan: Plan, instances: Sequence[Instance]) -> str:
    room = [
        f"   - {_text(instance.replica.name)}: {instance.replica.kv_capacity_tokens:,}"
        for instance in instances
    ]
    lines = [
        "## Check afterwards",
        "",
        "1. Each engine says `GPU KV cache size: N tokens` when it starts. The plan "
        "counts on at least:",
        *room,
        "2. One request through the router comes back with the model's answer.",
    ]
    if plan.deployment.is_disaggregated:
        lines += _transfer_checks(plan)
    return "\n".join(lines)


def _transfer_checks(plan: Plan) -> list[str]:
    """What shows that KV caches travel, and over the links that the plan counts on."""
    slowest = min(plan.deployment.routes, key=lambda route: route.bytes_per_s)
    kinds = ", ".join(sorted({route.kind for route in plan.deployment.routes}))
    rate = slowest.bytes_per_s * plan.problem.engine.kv_link_efficiency_frac
    return [
        "3. After some requests the log shows `KV Transfer metrics: Num successful "
        "transfers=N`. If it never does, decode replicas repeat the prefill.",
        f"4. Transfers do not go over TCP. The plan counts on {kinds}, and on "
        f"{rate / GB:.1f} GB/s on the slowest route ({_text(slowest.source)} to "
        f"{_text(slowest.target)}); compare `Throughput (MB/s)` in the same line.",
        "   To see the transport, start one prefill and one decode replica with "
        "`UCX_PROTO_INFO=y`: the lines `remote memory read` or `remote memory write` "
        "must name `cuda_ipc` within a node and RDMA (`rc_mlx5`, `dc_mlx5`) between "
        "nodes. If they name `tcp`, UCX finds no RDMA device (`ucx_info -d`).",
    ]


def _text(value: str) -> str:
    """One line that does not break a table or open a code block."""
    return one_line(value).replace("|", "\\|").replace("`", "'")
