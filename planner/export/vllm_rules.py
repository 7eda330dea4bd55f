"""What is known not to work, or to work differently, when vLLM runs a plan.

Each rule is a function that yields its caveats; those about vLLM name the thread or the
document they rest on. Rules that make a plan impossible to express are in `why_not`.
"""

from collections.abc import Callable, Iterator, Sequence, Set

from models.memory import MemorySettings
from planner.export.instances import why_not_even
from planner.export.vllm_flags import (
    BLOCK_SIZES,
    PUSH_CONNECTOR,
    connector,
    kv_dtype_flag,
)
from planner.plan import Plan
from planner.simulator.system import Batching, BatchLimits, Phase, Routing
from planner.simulator.transfer_settings import TransferMode

DESCRIPTOR_BLOCK_TOKENS = 64
"""Blocks from which descriptors stop to matter (vllm-project/vllm issue 50913)."""

SERVABLE = ("OPTIMAL", "FEASIBLE")


def why_not(plan: Plan) -> str | None:
    """Why vLLM has no flags for a plan, or None."""
    llm = plan.problem.service.llm
    if kv_dtype_flag(llm) is None:
        return f"it has no KV cache in {llm.precision.kv}"
    if plan.deployment.is_disaggregated and not plan.deployment.routes:
        return "no KV cache has a way from prefill to decode"
    for replica in plan.deployment.replicas:
        degrees = replica.parallelism
        if max(degrees.ep, degrees.attention_dp, degrees.cp) > 1:
            return f"{replica.name} has {degrees}, and only TP and PP are exported"
        if len(set(degrees.stage_widths)) > 1:
            return (
                f"{replica.name} has stages of unlike TP ({replica.shape.split}), and "
                "vLLM has one --tensor-parallel-size for all"
            )
        if replica.kv_block_tokens not in BLOCK_SIZES:
            known = ", ".join(str(size) for size in BLOCK_SIZES)
            size = replica.kv_block_tokens
            return f"{replica.name} has KV blocks of {size} tokens, not one of {known}"
        limits = replica.limits
        if limits.max_num_seqs > limits.max_batch_tokens:
            return (
                f"{replica.name} allows {limits.max_num_seqs} requests in a step of "
                f"{limits.max_batch_tokens} tokens, and vLLM wants a token for each"
            )
        uneven = why_not_even(replica, plan.problem.cluster.topology)
        if uneven:
            return uneven
    return None


def caveats(plan: Plan) -> tuple[str, ...]:
    """All caveats of a plan, the gravest first."""
    return tuple(text for rule in _RULES for text in rule(plan))


def _unservable(plan: Plan) -> Iterator[str]:
    if plan.status not in SERVABLE:
        why = "; ".join(plan.reasons) or "no reason given"
        yield f"The plan is {plan.status}: it does not meet its SLO ({why})."


def _decode_stages(plan: Plan) -> Iterator[str]:
    for replica in plan.deployment.of_phase(Phase.DECODE):
        if replica.parallelism.pp > 1:
            yield (
                f"{replica.name} will not start: it has {replica.parallelism.pp} "
                "pipeline stages, and NIXL connectors refuse a decode replica with "
                "more than one (vllm-project/vllm#45880, #52913). Plan again with "
                "search.max_pp: 1."
            )


def _prefill_stages(plan: Plan) -> Iterator[str]:
    staged = any(r.parallelism.pp > 1 for r in plan.deployment.of_phase(Phase.PREFILL))
    if staged and plan.problem.service.llm.windows:
        yield (
            "A prefill replica with pipeline stages cannot send the KV cache of a "
            "model with sliding windows (vllm-project/vllm#45880)."
        )


def _block_sizes(plan: Plan) -> Iterator[str]:
    prefill = {r.kv_block_tokens for r in plan.deployment.of_phase(Phase.PREFILL)}
    decode = {r.kv_block_tokens for r in plan.deployment.of_phase(Phase.DECODE)}
    if len(prefill | decode) < 2 or not (prefill and decode):
        return
    if max(prefill) > min(decode) or plan.problem.service.llm.windows:
        yield (
            f"KV blocks of prefill ({_listed(prefill)}) and decode ({_listed(decode)}) "
            "cannot be matched: blocks may differ only if those of prefill are smaller "
            "and the model has no sliding windows (nixl_connector_compatibility.md)."
        )


def _mla(plan: Plan) -> Iterator[str]:
    if plan.problem.service.llm.mla is None:
        return
    sizes = {replica.kv_block_tokens for replica in plan.deployment.replicas}
    if min(sizes) < DESCRIPTOR_BLOCK_TOKENS:
        yield (
            f"MLA backends set their own KV blocks (FlashMLA 64, CUTLASS 128 tokens) "
            f"and override --block-size {_listed(sizes)} (vllm/platforms/cuda.py)."
        )
    degrees = {replica.parallelism.tp for replica in plan.deployment.replicas}
    if plan.deployment.is_disaggregated and len(degrees) > 1:
        yield (
            "Prefill and decode differ in TP: for MLA models this works without "
            "splitting heads, so test it (nixl_connector_compatibility.md)."
        )


def _architectures(plan: Plan) -> Iterator[str]:
    topology = plan.problem.cluster.topology
    found = {topology.gpu(i).type.architecture for i in plan.deployment.gpu_indices}
    if plan.deployment.is_disaggregated and len(found) > 1:
        yield (
            f"Replicas run on {', '.join(sorted(found))} GPUs, where vLLM may choose "
            "different attention backends, and the KV handshake then fails: set the "
            "same --attention-backend on all (nixl_connector_compatibility.md)."
        )


def _unlike_stages(plan: Plan) -> Iterator[str]:
    for replica in plan.deployment.replicas:
        if len(set(replica.shape.gpu_types)) > 1:
            yield (
                f"{replica.name} has stages on unlike GPUs ({replica.shape.split}): "
                "all its processes must choose one attention backend and one format, "
                "and vLLM gives every stage as many KV blocks as the smallest has."
            )


def _push(plan: Plan) -> Iterator[str]:
    if plan.deployment.is_disaggregated and connector(plan) == PUSH_CONNECTOR:
        yield (
            f"KV caches are pushed ({PUSH_CONNECTOR}), not read by decode replicas: "
            "UCX reads between GPUs of a node at the speed of TCP "
            "(vllm-project/vllm#52607), and NIXL cannot read from pipeline stages "
            "(#45880). Older releases than vLLM 0.26 may lack this connector."
        )


def _descriptors(plan: Plan) -> Iterator[str]:
    sizes = {replica.kv_block_tokens for replica in plan.deployment.replicas}
    if plan.deployment.is_disaggregated and min(sizes) < DESCRIPTOR_BLOCK_TOKENS:
        is_costed = plan.problem.engine.kv_transfer.block_ms > 0
        costed = "costs" if is_costed else "does not cost"
        yield (
            f"KV blocks of {min(sizes)} tokens make many small transfers, which the "
            f"simulation {costed} (5,000 tokens took 58 ms longer with 16 than "
            "with 64, vllm-project/vllm#50913). Consider block_tokens: 64 under "
            "engine.memory."
        )


def _connector(plan: Plan) -> Iterator[str]:
    assumed = plan.problem.engine.kv_transfer.connector
    if plan.deployment.is_disaggregated and assumed and not assumed.startswith("nixl"):
        yield (
            f"The plan was simulated with the transfers of {assumed}; these files run "
            f"{connector(plan)}. Plan again with engine.kv_transfer.connector: "
            "nixl-rdma, or change --kv-transfer-config."
        )


def _admission(plan: Plan) -> Iterator[str]:
    if plan.problem.engine.admission is not None:
        yield (
            "The plan was simulated with requests refused on arrival; the router lets "
            "every one in. Plan again without engine.admission to see what then holds."
        )


def _slices(plan: Plan) -> Iterator[str]:
    num = len({replica.slice for replica in plan.deployment.replicas})
    if num > 1 and plan.deployment.routing is not Routing.FLOW_SHARES:
        yield (
            f"KV caches stay within {num} groups of replicas, and a router cannot be "
            "told so: each group has a router of its own. Split the traffic over the "
            "routers in proportion to the prefill GPUs behind them."
        )


_UNKNOWN_ROUTINGS = (Routing.PENDING_TOKENS, Routing.TETRIINFER, Routing.SPLITWISE)
"""Policies that vLLM's router has nothing like."""


def _routing(plan: Plan) -> Iterator[str]:
    if plan.deployment.routing is Routing.SHORTEST_QUEUE:
        yield (
            "The simulation sends each request to the replica with the least work; the "
            "router's nearest policy, power_of_two, compares two at random."
        )
    elif plan.deployment.routing is Routing.FLOW_SHARES:
        routes = [route for route in plan.deployment.routes if route.share_frac]
        if len(routes) > 1:
            yield (
                "vllm-router knows no weights: each KV route in use has a router of "
                "its own, and NGINX chooses among them on arrival; in the simulation "
                "the decode replica is chosen after the prefill, in the same shares. "
                "Where a replica is down, take its routers out of the list."
            )
        used = {name for route in routes for name in (route.source, route.target)}
        idle = [r.name for r in plan.deployment.replicas if r.name not in used]
        if idle:
            yield f"No request goes to {', '.join(idle)}: its share is 0."
    elif plan.deployment.routing in _UNKNOWN_ROUTINGS:
        yield (
            f"The plan was simulated with {plan.deployment.routing} routing, which the "
            "router does not know; power_of_two comes nearest, and lends no replica."
        )


def _batching(plan: Plan) -> Iterator[str]:
    policies = {replica.limits.policy for replica in plan.deployment.replicas}
    if not plan.deployment.is_disaggregated and policies != {Batching.CHUNKED}:
        yield (
            "vLLM mixes chunks of prompts with decoding in one step; the simulation "
            f"batches as {_listed(policies)}. Plan with engine.limits.policy: chunked "
            "to simulate what will run."
        )


_UNKNOWN_LIMITS = (
    "max_step_context_tokens",
    "max_step_prompts",
    "has_chunks_in_turn",
    "chunk_tile_tokens",
    "prompt_order",
    "decode_admission",
)
"""Engine limits that vLLM has nothing like."""


def _left_out(plan: Plan) -> Iterator[str]:
    limits = [replica.limits for replica in plan.deployment.replicas]
    yield from left_out(limits, plan.problem.engine.memory)


def left_out(limits: Sequence[BatchLimits], memory: MemorySettings) -> Iterator[str]:
    """Limits of engines that vLLM has no flag for, where they are set."""
    usual = BatchLimits()
    names = [
        name
        for name in _UNKNOWN_LIMITS
        if any(getattr(each, name) != getattr(usual, name) for each in limits)
    ]
    if memory.feed_forward_block_tokens:
        names.append("feed_forward_block_tokens")
    for name in names:
        yield f"vLLM has no limit like {name}: it is left out."
    if any(each.is_output_reserved for each in limits):
        yield (
            "vLLM takes KV blocks as tokens come and may preempt: is_output_reserved "
            "is left out."
        )
    if any(each.max_partial_prompts is not None for each in limits):
        yield (
            "max_partial_prompts is left out: vLLM does not start with a "
            "--max-num-partial-prefills above 1 (vllm-project/vllm#39737), and takes "
            "chunks of as many prompts as fit a step."
        )


def _listed(sizes: Set[int] | Set[str]) -> str:
    return ", ".join(str(size) for size in sorted(sizes))


def _layer_wise(plan: Plan) -> Iterator[str]:
    mode = plan.problem.engine.kv_transfer.mode
    if plan.deployment.is_disaggregated and mode is not TransferMode.SERIALIZED:
        yield (
            f"The plan sends KV caches {mode.replace('_', ' ')}; NIXL connectors send "
            "them after the prefill. Plan again with engine.kv_transfer.mode: "
            "serialized."
        )


_RULES: tuple[Callable[[Plan], Iterator[str]], ...] = (
    _unservable,
    _decode_stages,
    _prefill_stages,
    _block_sizes,
    _mla,
    _architectures,
    _unlike_stages,
    _push,
    _descriptors,
    _connector,
    _admission,
    _layer_wise,
    _slices,
    _routing,
    _batching,
    _left_out,
)
