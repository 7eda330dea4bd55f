"""Export of several services to vLLM under CUDA MPS: one engine for each LLM of a unit.

Sources
-------
CUDA MPS (docs.nvidia.com/deploy/mps): ``nvidia-cuda-mps-control -d`` starts the server
of a node, ``CUDA_MPS_ACTIVE_THREAD_PERCENTAGE`` limits the SMs of a client. vLLM 0.26:
``vllm serve --help`` (``--num-gpu-blocks-override`` gives an engine exactly so many KV
blocks).

vLLM runs prefills and decodes of a model in one process, so an engine gets the SMs of
its decode and those of the unit's prefills; shares of one unit then add up to more than
all SMs, as prefills take turns.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from clusters.fields import InputError, spec
from clusters.serde import dump_json
from planner.export.gpu_share import GpuShare
from planner.export.instances import Instance
from planner.export.shell import (
    Variable,
    assignment,
    command_lines,
    comment,
    export_line,
    one_line,
)
from planner.export.vllm_apart import (
    apart_files,
    apart_plans,
    apart_rows,
    instances_by_service,
    why_not,
)
from planner.export.vllm_flags import Options, kv_dtype_flag, model_id
from planner.export.vllm_rules import left_out
from planner.export.vllm_scripts import HOSTS_FILE, PREAMBLE, script
from planner.multiplexing.placed import PlacedUnit
from planner.multiplexing.shared_files import shared_plan_to_mapping
from planner.multiplexing.shared_phases import sharing_phases
from planner.multiplexing.shared_plan import SharedPlan
from planner.multiplexing.unit import UnitMember
from planner.problem import Service
from planner.simulator.system import Phase

FIRST_PORT = 8100
MPS_SCRIPT = "start-mps.sh"


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedEngine:
    """One LLM on one unit, as vLLM runs it."""

    label: str = spec("Name of its script.")
    unit: PlacedUnit = spec("Its unit.")
    member: UnitMember = spec("Its part of the unit.")
    service: Service = spec("Whose requests it serves.")
    node: int = spec("Index of its node.", unit="index")
    node_name: str = spec("Name of its node.")
    local_gpus: tuple[int, ...] = spec("Its GPUs on the node.", unit="index")
    share: GpuShare = spec("What it gets of its GPUs.")
    port: int = spec("Where its API listens.", unit="1")
    model_variable: str = spec("Shell variable of its model.")


def engines_of(
    plan: SharedPlan, taken: Sequence[Instance] = ()
) -> tuple[SharedEngine, ...]:
    """Engines of whole requests, unit by unit; ports count up on each node.

    They begin after those of `taken`, the replicas of services with phases apart.
    """
    topology = plan.problem.cluster.topology
    services = {service.name: service for service in plan.problem.services}
    models = list(dict.fromkeys(service.llm for service in plan.problem.services))
    ports: dict[int, int] = {}
    for instance in taken:
        last = ports.get(instance.head.node, FIRST_PORT - 1)
        ports[instance.head.node] = max(last, instance.http_port)
    ports = {node: port + 1 for node, port in ports.items()}
    engines = []
    for index, each in enumerate(plan.placed.units):
        if each.unit.phase is not Phase.AGGREGATED:
            continue
        first = topology.gpu(each.gpu_indices[0])
        for place, member in enumerate(each.unit.members):
            port = ports.setdefault(first.node, FIRST_PORT)
            ports[first.node] += 1
            engines.append(
                SharedEngine(
                    label=f"unit-{index}-{place}",
                    unit=each,
                    member=member,
                    service=services[member.service],
                    share=GpuShare.of(plan, each, member, services[member.service]),
                    node=first.node,
                    node_name=first.node_name,
                    local_gpus=tuple(
                        topology.gpu(gpu).local_index for gpu in each.gpu_indices
                    ),
                    port=port,
                    model_variable=f"MODEL_{models.index(services[member.service].llm)}",
                )
            )
    return tuple(engines)


def export_shared(plan: SharedPlan) -> dict[str, str]:
    """The files that serve a plan of several services with vLLM.

    Parameters
    ----------
    plan
        A plan that holds.

    Returns
    -------
    dict[str, str]
        ``hosts.env``, ``start-mps.sh``, a script for each LLM of each unit, and
        ``README.md``; for each service with phases apart a folder, as `export_vllm`
        writes it.

    Raises
    ------
    InputError
        If vLLM has no flags for a service with phases apart.
    """
    apart = apart_plans(plan)
    if (why := why_not(apart)) is not None:
        raise InputError("--to", "vllm", f"another system ({why})")
    instances = instances_by_service(plan, apart)
    taken = [each for own in instances.values() for each in own]
    engines = engines_of(plan, taken)
    digest = hashlib.sha256(dump_json(shared_plan_to_mapping(plan)).encode())
    stamp = f"phaseplan {plan.tool_version}, plan sha256 {digest.hexdigest()}"
    files = {HOSTS_FILE: _hosts(engines, stamp), MPS_SCRIPT: _mps_script(stamp)}
    for engine in engines:
        files[f"{engine.label}.sh"] = _launch_script(plan, engine, stamp)
    files["README.md"] = _readme(plan, engines, apart_rows(apart, instances), stamp)
    return files | apart_files(apart, instances)


def caveats(plan: SharedPlan) -> tuple[str, ...]:
    """What users should know before they run the files."""
    found = [
        "vLLM runs prefills and decodes of a model in one process, so the SM share of "
        "an engine covers both; the simulation keeps them apart.",
        "KV quotas are fixed at start; the simulation lets them move (adbs).",
    ]
    if any(each.unit.cycle_ms is not None for each in plan.placed.units):
        found.append(
            "Units in turns: vLLM engines do not wait for each other; the GPU's time "
            "slices stand in for turns."
        )
    if sharing_phases(plan.placed, plan.placed.disaggregated):
        found.append(
            "Services that share prefill-only or decode-only GPUs: the plan deals "
            "their requests by rate, routers compare the loads of engines."
        )
    if engines_of(plan):
        engine = plan.problem.engine
        found += left_out([engine.limits], engine.memory)
    return tuple(found)


def _launch_script(plan: SharedPlan, engine: SharedEngine, stamp: str) -> str:
    gpus = ",".join(map(str, engine.local_gpus))
    name = engine.service.name
    kind = engine.unit.unit.mesh.gpu_type
    return script(
        comment(f"{name} on {engine.node_name}, {kind} GPUs {gpus}"),
        comment(stamp),
        *PREAMBLE,
        "",
        comment("GPU indices as nvidia-smi shows them."),
        export_line("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
        export_line("CUDA_VISIBLE_DEVICES", gpus),
        comment("Share of the SMs; needs the MPS server of start-mps.sh."),
        export_line(
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", str(engine.share.sm_percentage)
        ),
        "",
        command_lines(
            ("exec", "vllm", "serve", Variable(engine.model_variable)),
            [
                ("--host", "0.0.0.0"),
                ("--port", str(engine.port)),
                *_engine_options(plan, engine),
            ],
        ),
    )


def _engine_options(plan: SharedPlan, engine: SharedEngine) -> Options:
    settings, llm = plan.problem.engine, engine.service.llm
    block = settings.memory.block_tokens
    quota = engine.member.kv_quota_tokens
    options: Options = [
        ("--served-model-name", engine.service.name),
        ("--tensor-parallel-size", str(len(engine.local_gpus))),
        ("--block-size", str(block)),
        ("--num-gpu-blocks-override", str(engine.share.num_kv_blocks)),
        ("--max-model-len", str(min(llm.max_positions, quota))),
        ("--max-num-batched-tokens", str(settings.limits.max_batch_tokens)),
        ("--max-num-seqs", str(engine.member.max_num_seqs)),
        ("--gpu-memory-utilization", f"{engine.share.memory_frac:.3f}"),
    ]
    kv_dtype = kv_dtype_flag(llm) or "auto"
    if kv_dtype != "auto":
        options.append(("--kv-cache-dtype", kv_dtype))
    return options


def _hosts(engines: tuple[SharedEngine, ...], stamp: str) -> str:
    models = {each.model_variable: each.service.llm for each in engines}
    lines = [
        comment("Fill in, and put the same file beside the scripts on every node."),
        comment(stamp),
        "# shellcheck shell=bash disable=SC2034",
        "",
        comment("Hugging Face id or folder of each model, the same on every node."),
        *(assignment(name, model_id(llm)) for name, llm in sorted(models.items())),
    ]
    return "\n".join(lines) + "\n"


def _mps_script(stamp: str) -> str:
    return script(
        comment("Start the MPS server of this node, once, before the engines."),
        comment(stamp),
        "set -euo pipefail",
        export_line("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
        command_lines(("exec", "nvidia-cuda-mps-control", "-d"), []),
    )


def _readme(
    plan: SharedPlan,
    engines: tuple[SharedEngine, ...],
    apart: Sequence[tuple[str, str, str, float]],
    stamp: str,
) -> str:
    rows = [_row(each) for each in engines]
    lines = [
        "# Several models on shared GPUs",
        "",
        one_line(stamp) + ".",
        "",
        f"1. Fill in `{HOSTS_FILE}` and copy the folder to every node.",
        f"2. On every node: `./{MPS_SCRIPT}`, once.",
        "3. Start the scripts below on their nodes; the first of a GPU first.",
        "4. Send each service's requests to its ports in proportion to req/s.",
        "",
        "| Script | Service | Node | GPUs | SMs | KV tokens | req/s | Port |",
        "|---|---|---|---|---:|---:|---:|---:|",
        *rows,
        *_apart_lines(apart),
        "",
        "## Before you rely on it",
        "",
        *(f"- {one_line(text)}" for text in caveats(plan)),
    ]
    return "\n".join(lines) + "\n"


def _apart_lines(apart: Sequence[tuple[str, str, str, float]]) -> list[str]:
    """Where to go on for services whose phases are apart."""
    if not apart:
        return []
    return [
        "",
        "Prefills and decodes of these services have GPUs of their own, which several "
        "may share; the README.md of each folder says how to start them.",
        "",
        "| Folder | Service | Nodes | req/s |",
        "|---|---|---|---:|",
        *(
            f"| `{folder}` | {_cell(service)} | {_cell(nodes)} | {rate:.3g} |"
            for folder, service, nodes, rate in apart
        ),
    ]


def _row(engine: SharedEngine) -> str:
    member = engine.member
    cells = [
        f"`{engine.label}.sh`",
        _cell(engine.service.name),
        _cell(engine.node_name),
        ",".join(map(str, engine.local_gpus)),
        f"{engine.share.sm_percentage} %",
        f"{member.kv_quota_tokens:,}",
        f"{member.served_rps:.3g}",
        str(engine.port),
    ]
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")
