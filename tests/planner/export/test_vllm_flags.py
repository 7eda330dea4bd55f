"""Flags of vLLM: what the plan assumes is what the engine is told."""

from dataclasses import replace

import pytest

from models.llm import LlmSpec
from planner.export.vllm_flags import (
    connector,
    dtype_flag,
    engine_options,
    kv_dtype_flag,
    kv_transfer_config,
    max_model_len,
    model_id,
)
from planner.plan import Plan
from planner.simulator.system import Batching, BatchLimits, Phase
from tests.planner.export.plans import (
    aggregated,
    one_node,
    pipeline,
    plan_of,
    problem_of,
    tp,
    two_nodes,
)


def with_kv_room(plan: Plan, tokens: int) -> Plan:
    first, *rest = plan.deployment.replicas
    replicas = (replace(first, kv_capacity_tokens=tokens), *rest)
    return replace(plan, deployment=replace(plan.deployment, replicas=replicas))


def test_kv_roles_follow_the_phases() -> None:
    plan = one_node()
    roles = [kv_transfer_config(plan, r)["kv_role"] for r in plan.deployment.replicas]
    assert roles == ["kv_producer", "kv_consumer"]


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (two_nodes, "NixlConnector"),  # every KV cache crosses the network
        (one_node, "NixlPushConnector"),  # NVLink, which UCX cannot read over
        (pipeline, "NixlPushConnector"),  # prefill in two stages
    ],
)
def test_kv_is_pushed_where_it_cannot_be_pulled_well(plan, expected: str) -> None:
    assert connector(plan()) == expected


def test_contexts_are_as_long_as_the_model_and_every_kv_cache_allow() -> None:
    # OPT has 2048 positions.
    assert max_model_len(one_node()) == 2048
    assert max_model_len(with_kv_room(one_node(), 1600)) == 1600


def test_a_kv_cache_in_the_models_own_format_needs_no_flag() -> None:
    llm = LlmSpec.load("llama-3.1-8b")
    assert kv_dtype_flag(llm) == "auto"
    assert kv_dtype_flag(llm.with_kv_dtype("fp8")) == "fp8"
    assert kv_dtype_flag(llm.with_kv_dtype("fp4")) is None
    flags = [option[0] for option in engine_options(*first_of(aggregated()))]
    assert "--kv-cache-dtype" not in flags


def first_of(plan: Plan):
    return plan, plan.deployment.replicas[0]


def test_a_bf16_model_is_served_in_fp16_if_any_gpu_lacks_bf16() -> None:
    # The T4 has no bf16 units; the handshake wants one format on both sides.
    cluster = {"nodes": [{"type": "g4dn.xlarge"}, {"type": "g6.xlarge"}]}
    problem = problem_of(cluster, "qwen3-8b")
    places = [(Phase.AGGREGATED, "l4", tp(1, 1))]
    assert dtype_flag(plan_of(problem, places)) == "auto"
    # Its 16 GB of weights do not fit the T4, so only the flag is asked.
    plan = plan_of(problem, places)
    (replica,) = plan.deployment.replicas
    moved = replace(replica, gpu_type="t4", stage_gpus=tp(0, 1))
    deployment = replace(plan.deployment, replicas=(moved,))
    assert dtype_flag(replace(plan, deployment=deployment)) == "float16"


def test_a_catalogue_model_is_named_as_on_hugging_face() -> None:
    llm = LlmSpec.load("llama-3.1-70b")
    assert model_id(llm) == "meta-llama/Llama-3.1-70B"
    assert model_id(replace(llm, name="my model")) == "my model"


def test_a_limit_on_the_chunk_of_a_prompt_has_a_flag() -> None:
    plan = one_node()
    replica = plan.deployment.replicas[0]
    flag = "--long-prefill-token-threshold"
    assert all(flag not in option for option in engine_options(plan, replica))
    limits = BatchLimits(policy=Batching.CHUNKED, max_chunk_tokens=256)
    options = engine_options(plan, replace(replica, limits=limits))
    assert (flag, "256") in options
