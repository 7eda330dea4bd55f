"""Engine flags of vLLM: what each replica is started with, nothing left to defaults.

Sources
-------
vLLM 0.26: ``vllm serve --help`` (a prompt has no more tokens in a step than
``--long-prefill-token-threshold``); docs/features/nixl_connector_usage.md (connector
configuration, side channel), docs/features/nixl_connector_compatibility.md (what must
match), vllm/config/cache.py (block sizes, KV formats); ``VLLM_PP_LAYER_PARTITION`` in
vllm/envs.py. ``NixlPushConnector``: vllm-project/vllm pull request 35264.
"""

import json
import re

from clusters.gpu import Dtype
from clusters.links import LinkKind
from clusters.serde import read_mapping
from models.llm import CATALOG, LlmSpec, bytes_of, catalog_names
from planner.deployment import Replica
from planner.export.gpu_share import GpuShare
from planner.export.shell import Word
from planner.plan import Plan
from planner.simulator.system import Phase

BLOCK_SIZES = (1, 8, 16, 32, 64, 128, 256)
"""Values of ``--block-size``."""

PULL_CONNECTOR = "NixlConnector"
PUSH_CONNECTOR = "NixlPushConnector"

_KV_ROLES = {Phase.PREFILL: "kv_producer", Phase.DECODE: "kv_consumer"}

Options = list[tuple[Word, ...]]


def engine_options(
    plan: Plan, replica: Replica, share: GpuShare | None = None
) -> Options:
    """Flags that decide how an engine batches and what it holds, on all its nodes.

    With a `share` other engines run on its GPUs.
    """
    llm = plan.problem.service.llm
    utilisation = f"{plan.problem.engine.memory.utilisation_frac:g}"
    if share is not None:
        utilisation = f"{share.memory_frac:.3f}"
    options: Options = [
        ("--served-model-name", llm.name),
        ("--tensor-parallel-size", str(replica.parallelism.tp)),
        ("--pipeline-parallel-size", str(replica.parallelism.pp)),
        ("--dtype", dtype_flag(plan)),
        ("--block-size", str(replica.kv_block_tokens)),
        ("--max-model-len", str(max_model_len(plan))),
        ("--max-num-batched-tokens", str(replica.limits.max_batch_tokens)),
        ("--max-num-seqs", str(replica.limits.max_num_seqs)),
        ("--gpu-memory-utilization", utilisation),
    ]
    if share is not None:
        options.append(("--num-gpu-blocks-override", str(share.num_kv_blocks)))
    if replica.limits.max_chunk_tokens is not None:
        most = str(min(replica.limits.max_chunk_tokens, max_model_len(plan)))
        options.append(("--long-prefill-token-threshold", most))
    kv_dtype = kv_dtype_flag(llm) or "auto"
    if kv_dtype != "auto":
        options.append(("--kv-cache-dtype", kv_dtype))
    if plan.deployment.is_disaggregated:
        config = json.dumps(kv_transfer_config(plan, replica))
        options.append(("--kv-transfer-config", config))
    return options


def kv_transfer_config(plan: Plan, replica: Replica) -> dict[str, object]:
    """Value of ``--kv-transfer-config``.

    NIXL takes the roles from the router; they are written down all the same. A failed
    transfer fails its request: to recompute would run prefill on decode replicas.
    """
    return {
        "kv_connector": connector(plan),
        "kv_role": _KV_ROLES[replica.phase],
        "kv_buffer_device": "cuda",
        "kv_load_failure_policy": "fail",
        "kv_connector_extra_config": {"backends": ["UCX"]},
    }


def connector(plan: Plan) -> str:
    """The NIXL connector that suits the routes; one for all, as the two do not mix.

    Pull reads from the prefill replica. Push writes to the decode replica, which UCX
    does at full rate between GPUs that reach each other directly (vllm-project/vllm
    issue 52607: 49 against 0.5 GB/s), and which is the only way for a prefill replica
    with pipeline stages (pull request 45880).
    """
    prefill = plan.deployment.of_phase(Phase.PREFILL)
    is_direct = any(r.kind != LinkKind.NETWORK for r in plan.deployment.routes)
    is_staged = any(replica.parallelism.pp > 1 for replica in prefill)
    return PUSH_CONNECTOR if is_direct or is_staged else PULL_CONNECTOR


def max_model_len(plan: Plan) -> int:
    """Longest context that every replica can hold, and the model allows.

    vLLM does not start if one request of this length exceeds its KV cache.
    """
    room = min(replica.kv_capacity_tokens for replica in plan.deployment.replicas)
    return min(plan.problem.service.llm.max_positions, room)


def dtype_flag(plan: Plan) -> str:
    """Format of activations: half precision if a GPU of the plan has no bf16 units.

    One for all, since prefill and decode must agree.
    """
    topology = plan.problem.cluster.topology
    types = {topology.gpu(index).type for index in plan.deployment.gpu_indices}
    is_bf16 = plan.problem.service.llm.precision.embedding.compute_dtype is Dtype.BF16
    lacks_bf16 = any(Dtype.BF16 not in gpu.dtypes for gpu in types)
    return "float16" if is_bf16 and lacks_bf16 else "auto"


def kv_dtype_flag(llm: LlmSpec) -> str | None:
    """Format of the KV cache in vLLM's words, None if it has none like it.

    ``auto`` is the format of the activations, which has 16 bits in either form.
    """
    kv = llm.precision.kv
    if kv is Dtype.FP8:
        return "fp8"
    is_base = kv is llm.precision.embedding.compute_dtype
    return "auto" if is_base or bytes_of(kv) == bytes_of(Dtype.BF16) else None


def model_id(llm: LlmSpec) -> str:
    """Hugging Face repository of a catalogue model, the plain name of any other."""
    if llm.name not in catalog_names():
        return llm.name
    source = str(read_mapping(CATALOG / f"{llm.name}.json").get("_source", ""))
    found = re.search(r"https://huggingface\.co/([^/\s]+/[^/\s]+)/", source)
    return found[1] if found else llm.name
