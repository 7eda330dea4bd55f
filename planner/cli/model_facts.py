"""What an LLM costs on a GPU: memory and step latencies of a replica, as plain data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clusters.cluster import Cluster
from clusters.fields import spec
from clusters.gpu import GpuType
from clusters.links import GroupLinks
from clusters.mapping import to_mapping
from clusters.node import Interconnect, Node, NodeType
from models.flops import num_active_parameters, num_parameters
from models.latency.library import (
    LatencyChoice,
    LatencyLibrary,
    LatencyRequest,
    LatencyUnavailableError,
)
from models.llm import LlmSpec
from models.memory import kv_bytes_per_token, memory_of
from models.parallelism import Parallelism
from planner.cli.llm_facts import (
    short_kv_bytes_per_token,
    state_bytes,
    weights_bytes,
)

PROMPT_TOKENS = (128, 512, 2048, 8192)
"""Prompts whose prefill is shown, one at a time."""
BATCH_REQUESTS = (1, 16, 64, 256)
"""Decode batches shown, at `CONTEXT_TOKENS` each."""
CONTEXT_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine that a replica is assumed to run on."""

    name: str = spec("Node type, and how many of them.")
    links: GroupLinks = spec("Links of the replica on it.")


def facts_of_model(
    llm: LlmSpec,
    gpu: GpuType,
    parallelism: Parallelism,
    *,
    sources: Sequence[str] = (),
) -> dict[str, Any]:
    """Shapes, memory on `gpu`, and step latencies of a replica of `llm`.

    The latencies are those of the default sources, or of the named ones in that order.

    Raises
    ------
    LatencyUnavailableError
        If the parallelism cannot split the model, or nothing knows its latency.
    InputError
        On a name of no source.
    """
    impossible = parallelism.why_not(llm)
    if impossible:
        raise LatencyUnavailableError(impossible)
    memory = memory_of(llm, parallelism, gpu)
    machine = machine_with(gpu, parallelism)
    request = LatencyRequest(
        llm=llm, parallelism=parallelism, gpu=gpu, links=machine.links
    )
    library = LatencyLibrary.default()
    if sources:
        library = library.with_sources(*sources)
    choice = library.choose(request)
    return {
        "llm": shape_facts(llm),
        "gpu": gpu.name,
        "parallelism": str(parallelism),
        "num_gpus": parallelism.num_gpus,
        "memory": {**to_mapping(memory), "kv_bytes": memory.kv_bytes},
        "latency": {
            "machine": machine.name,
            "source": choice.source,
            "provenance": str(choice.provenance),
            "reason": choice.reason,
            "expected_error_frac": choice.expected_error_frac,
            "prefill": _prefill_facts(llm, choice),
            "decode": _decode_facts(choice),
        },
    }


def shape_facts(llm: LlmSpec) -> dict[str, Any]:
    """Shapes and sizes of a model that do not depend on where it runs."""
    return {
        "name": llm.name,
        "parameters": num_parameters(llm),
        "active_parameters": num_active_parameters(llm),
        "weights_bytes": weights_bytes(llm),
        "kv_bytes_per_token": short_kv_bytes_per_token(llm),
        "kv_bytes_per_token_long": kv_bytes_per_token(llm),
        "state_bytes_per_request": state_bytes(llm),
        "num_layers": llm.num_layers,
        "hidden": llm.hidden,
        "num_heads": llm.num_heads,
        "num_kv_heads": llm.num_kv_heads,
        "head_dim": llm.head_dim,
        "intermediate": llm.intermediate,
        "vocab": llm.vocab,
        "max_positions": llm.max_positions,
        "mla": to_mapping(llm.mla),
        "indexer": to_mapping(llm.indexer),
        "linear": to_mapping(llm.linear),
        "moe": to_mapping(llm.moe),
        "windows": sorted({window for window in llm.windows if window is not None}),
        "precision": to_mapping(llm.precision),
    }


def machine_with(gpu: GpuType, parallelism: Parallelism) -> Machine:
    """The first node type of the catalogue that has enough of `gpu`, and its links.

    Where none has enough, several of the largest; where none has this GPU at all, an
    invented one in which NVLink, or PCIe, joins all of them.
    """
    num = parallelism.num_gpus
    types = [NodeType.load(name) for name in NodeType.names()]
    types = [each for each in types if each.gpu == gpu] or [_invented(gpu, num)]
    enough = [each for each in types if each.num_gpus >= num]
    node_type = enough[0] if enough else max(types, key=lambda each: each.num_gpus)
    num_nodes = -(-num // node_type.num_gpus)
    nodes = tuple(Node(name=f"node{i}", type=node_type) for i in range(num_nodes))
    size = parallelism.gpus_per_stage
    stages = [range(s * size, (s + 1) * size) for s in range(parallelism.pp)]
    name = f"{num_nodes} x {node_type.name}" if num_nodes > 1 else node_type.name
    topology = Cluster(nodes=nodes).topology
    tp = parallelism.tp if parallelism.num_ranks > 1 else None
    return Machine(name=name, links=topology.group_links(stages, tp=tp))


def _invented(gpu: GpuType, num_gpus: int) -> NodeType:
    joined = Interconnect.NVSWITCH if gpu.nvlink_bytes_per_s else Interconnect.PCIE
    return NodeType(
        name=f"a machine with {num_gpus} x {gpu.name}",
        gpu=gpu,
        num_gpus=num_gpus,
        interconnect=joined,
    )


def _prefill_facts(llm: LlmSpec, choice: LatencyChoice) -> list[dict[str, Any]]:
    """Prefill of one prompt through all stages."""
    shown = [tokens for tokens in PROMPT_TOKENS if tokens <= llm.max_positions]
    steps = [
        (tokens, sum(table.prefill_step_ms([tokens]) for table in choice.stages))
        for tokens in shown
    ]
    return [{"prompt_tokens": tokens, "latency_ms": ms} for tokens, ms in steps]


def _decode_facts(choice: LatencyChoice) -> list[dict[str, Any]]:
    """One token for every request of a batch, through all stages."""
    facts = []
    for num in BATCH_REQUESTS:
        kv_tokens = num * CONTEXT_TOKENS
        ms = sum(table.decode_step_ms(num, kv_tokens) for table in choice.stages)
        facts.append(
            {
                "num_requests": num,
                "context_tokens": CONTEXT_TOKENS,
                "latency_ms": ms,
            }
        )
    return facts
