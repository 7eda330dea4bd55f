"""Launch scripts of vLLM replicas, one a node, and the variables that they share.

Sources
-------
Several nodes without Ray: ``vllm serve --nnodes --node-rank --master-addr --headless``
(vLLM 0.26). Side channel: docs/features/nixl_connector_usage.md.
"""

from collections.abc import Sequence

from planner.export.instances import Instance, NodePart
from planner.export.shell import (
    Variable,
    assignment,
    command_lines,
    comment,
    export_line,
)
from planner.export.vllm_flags import Options, engine_options, model_id
from planner.plan import Plan
from planner.simulator.system import Phase

HOSTS_FILE = "hosts.env"

PREAMBLE = (
    "set -euo pipefail",
    f"# shellcheck source={HOSTS_FILE}",
    f'source "$(dirname -- "${{BASH_SOURCE[0]}}")/{HOSTS_FILE}"',
)


def script_name(instance: Instance, rank: int) -> str:
    """File of one node of a replica."""
    suffix = f"-rank-{rank}" if len(instance.parts) > 1 else ""
    return f"{instance.label}{suffix}.sh"


def launch_script(plan: Plan, instance: Instance, rank: int, stamp: str) -> str:
    """Script that starts one node of a replica and stays with it."""
    part = instance.parts[rank]
    replica = instance.replica
    gpus = ", ".join(str(gpu) for gpu in part.local_gpus)
    kind = "aggregated" if replica.phase is Phase.AGGREGATED else str(replica.phase)
    topology = plan.problem.cluster.topology
    types = dict.fromkeys(
        topology.gpu(gpu).type.name
        for gpu in replica.gpu_indices
        if topology.gpu(gpu).node == part.node
    )
    return script(
        comment(
            f"{replica.name}: {kind} replica, {replica.shape.split}, "
            f"on {part.node_name}, {' and '.join(types)} GPUs {gpus}"
        ),
        comment(stamp),
        *PREAMBLE,
        "",
        *_environment(plan, instance, part),
        "",
        command_lines(
            ("exec", "vllm", "serve", Variable("MODEL")),
            [
                *_network_options(instance, rank),
                *engine_options(plan, replica, instance.share),
            ],
        ),
    )


def _environment(plan: Plan, instance: Instance, part: NodePart) -> list[str]:
    """Which GPUs and addresses the engine uses on this node."""
    parallelism = instance.replica.parallelism
    lines = [
        comment("GPU indices as nvidia-smi shows them, in rank order."),
        export_line("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
        export_line("CUDA_VISIBLE_DEVICES", ",".join(map(str, part.local_gpus))),
    ]
    if instance.share is not None:
        percentage = str(instance.share.sm_percentage)
        lines += [
            comment("Share of the SMs; needs the MPS server of ../start-mps.sh."),
            export_line("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", percentage),
        ]
    if len(instance.parts) > 1:
        lines.append(export_line("VLLM_HOST_IP", host(part)))
    if parallelism.pp > 1:
        # vLLM gives the layers that are left over to other stages than the plan does.
        layers = parallelism.layers_per_stage(plan.problem.service.llm)
        partition = ",".join(str(num) for num in layers)
        lines.append(export_line("VLLM_PP_LAYER_PARTITION", partition))
    if plan.deployment.is_disaggregated:
        port = str(part.side_channel_port)
        lines += [
            export_line("VLLM_NIXL_SIDE_CHANNEL_HOST", host(part)),
            export_line("VLLM_NIXL_SIDE_CHANNEL_PORT", port),
            comment("UCX_NET_DEVICES is not set: the cluster file names no NICs."),
            comment("To pin those near these GPUs, export it before this script, e.g."),
            comment("UCX_NET_DEVICES=mlx5_0:1,mlx5_1:1"),
        ]
    return lines


def _network_options(instance: Instance, rank: int) -> Options:
    """Where the API listens and where the nodes of one replica meet."""
    options: Options = []
    if rank == 0:
        options += [("--host", "0.0.0.0"), ("--port", str(instance.http_port))]
    if len(instance.parts) > 1:
        options += [
            ("--distributed-executor-backend", "mp"),
            ("--nnodes", str(len(instance.parts))),
            ("--node-rank", str(rank)),
            ("--master-addr", host(instance.head)),
            ("--master-port", str(instance.master_port)),
        ]
    if rank > 0:
        options.append(("--headless",))
    return options


def hosts_file(plan: Plan, instances: Sequence[Instance], stamp: str) -> str:
    """Variables that all scripts read: the model, and an address for each node."""
    llm = plan.problem.service.llm
    nodes = {part.node: part.node_name for each in instances for part in each.parts}
    lines = [
        comment("Fill in, and put the same file beside the scripts on every node."),
        comment(stamp),
        "# shellcheck shell=bash disable=SC2034",
        "",
        comment(f"Hugging Face id or folder of {llm.name}, the same on every node."),
        assignment("MODEL", model_id(llm)),
        "",
        comment("Address of each node on the network that carries the KV caches."),
    ]
    for node, name in sorted(nodes.items()):
        lines += [comment(f"Node {name}"), assignment(_host_variable(node), name)]
    return "\n".join(lines) + "\n"


def host(part: NodePart) -> Variable:
    """The variable that holds a node's address."""
    return Variable(_host_variable(part.node))


def _host_variable(node: int) -> str:
    return f"HOST_{node}"


def script(*lines: str) -> str:
    """A bash script of these lines."""
    return "\n".join(["#!/usr/bin/env bash", *lines]) + "\n"
