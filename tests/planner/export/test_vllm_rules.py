"""Caveats: each known incompatibility is named where it applies, and only there."""

from dataclasses import replace

import pytest

from planner.admission import Admission
from planner.deployment import Replica
from planner.export.vllm_rules import caveats, why_not
from planner.plan import Plan, Status
from planner.simulator.control import PromptOrder
from planner.simulator.system import Batching, BatchLimits, Phase
from planner.simulator.transfer_settings import KvTransfer, TransferMode
from tests.planner.export.plans import (
    PLANS,
    aggregated,
    one_node,
    pipeline,
    plan_of,
    problem_of,
    tp,
    two_nodes,
    two_slices,
)


def changed(plan: Plan, index: int, **values: object) -> Plan:
    """The plan with another replica at `index`."""
    replicas: list[Replica] = list(plan.deployment.replicas)
    replicas[index] = replace(replicas[index], **values)
    deployment = replace(plan.deployment, replicas=tuple(replicas))
    return replace(plan, deployment=deployment)


def mentions(plan: Plan, words: str) -> bool:
    return any(words in text for text in caveats(plan))


@pytest.mark.parametrize("name", PLANS)
def test_plans_without_a_known_obstacle_are_supported(name: str) -> None:
    assert why_not(PLANS[name]()) is None


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"kv_block_tokens": 24}, "KV blocks of 24 tokens"),
        (
            {"limits": BatchLimits(max_batch_tokens=128, max_num_seqs=256)},
            "256 requests in a step of 128 tokens",
        ),
    ],
)
def test_what_vllm_has_no_flag_for_is_refused(
    values: dict[str, object], reason: str
) -> None:
    found = why_not(changed(one_node(), 0, **values))
    assert found is not None
    assert reason in found


def test_smaller_blocks_on_the_prefill_side_are_fine_and_larger_are_not() -> None:
    words = "cannot be matched"
    assert not mentions(one_node(), words)
    assert not mentions(changed(one_node(), 1, kv_block_tokens=64), words)
    assert mentions(changed(one_node(), 0, kv_block_tokens=64), words)


def test_small_blocks_matter_only_where_kv_caches_travel() -> None:
    assert mentions(two_nodes(), "many small transfers")
    assert not mentions(aggregated(), "many small transfers")


def test_a_decode_replica_in_stages_is_said_not_to_start() -> None:
    places = [
        (Phase.PREFILL, "a100_sxm", tp(0, 1)),
        (Phase.DECODE, "a100_sxm", ((1,), (2,))),
    ]
    plan = plan_of(problem_of("a100_1x4"), places)
    assert mentions(plan, "decode-0 will not start")
    assert not mentions(pipeline(), "will not start")


def test_different_gpu_architectures_may_differ_in_attention_backend() -> None:
    cluster = {"nodes": [{"type": "p5.48xlarge"}, {"type": "p4de.24xlarge"}]}
    places = [
        (Phase.PREFILL, "h100_sxm", tp(0, 1)),
        (Phase.DECODE, "a100_sxm", tp(8, 1)),
    ]
    assert mentions(plan_of(problem_of(cluster), places), "ampere, hopper GPUs")
    assert not mentions(two_nodes(), "attention backends")


def test_slices_are_said_to_need_a_router_each() -> None:
    assert mentions(two_slices(), "2 groups of replicas")
    assert not mentions(one_node(), "groups of replicas")


def test_a_plan_that_misses_its_slo_says_so_first() -> None:
    plan = replace(one_node(), status=Status.INFEASIBLE, reasons=("too few GPUs",))
    assert caveats(plan)[0].startswith("The plan is INFEASIBLE")
    assert "too few GPUs" in caveats(plan)[0]
    assert not mentions(one_node(), "SLO")


def test_limits_that_vllm_does_not_have_are_named() -> None:
    limits = BatchLimits(max_step_context_tokens=4096)
    assert mentions(changed(aggregated(), 0, limits=limits), "max_step_context_tokens")
    assert not mentions(aggregated(), "max_step_context_tokens")


def test_layer_wise_transfers_are_said_not_to_be_nixls() -> None:
    plan = two_nodes()
    assert not mentions(plan, "layer wise")
    transfer = KvTransfer(mode=TransferMode.LAYER_WISE)
    engine = replace(plan.problem.engine, kv_transfer=transfer)
    plan = replace(plan, problem=replace(plan.problem, engine=engine))
    assert mentions(plan, "KV caches layer wise; NIXL connectors send them after")


def with_engine(plan: Plan, **changes: object) -> Plan:
    """The plan with other engine settings."""
    engine = replace(plan.problem.engine, **changes)
    return replace(plan, problem=replace(plan.problem, engine=engine))


def test_another_connector_than_the_exported_one_is_named() -> None:
    words = "simulated with the transfers of"
    assert not mentions(two_nodes(), words)
    for name, is_said in (("nixl-tcp", False), ("mooncake-rdma", True)):
        transfer = KvTransfer(connector=name, block_ms=0.1)
        plan = with_engine(two_nodes(), kv_transfer=transfer)
        assert mentions(plan, words) == is_said
        assert mentions(plan, "which the simulation costs")
    assert mentions(two_nodes(), "which the simulation does not cost")
    assert not mentions(with_engine(aggregated(), kv_transfer=transfer), words)


def test_a_router_that_refuses_nobody_is_said_to() -> None:
    assert not mentions(aggregated(), "refused on arrival")
    plan = with_engine(aggregated(), admission=Admission())
    assert mentions(plan, "refused on arrival; the router lets every one in")


def test_stages_of_unlike_width_have_no_flags() -> None:
    plan = pipeline()
    split = replace(plan.deployment.replicas[0].parallelism, tp=8, stage_tp=(8, 4))
    reason = why_not(changed(plan, 0, parallelism=split))
    assert reason is not None
    assert "stages of unlike TP (TP8 a100_sxm + TP4 a100_sxm)" in reason
    assert "\n" not in reason


def test_stages_on_unlike_gpus_must_agree_on_a_backend() -> None:
    plan = pipeline()
    unlike = changed(plan, 0, stage_gpu_types=("a100_sxm", "h100_sxm"))
    assert why_not(unlike) is None
    assert mentions(unlike, "stages on unlike GPUs")
    assert not mentions(plan, "stages on unlike GPUs")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_step_prompts", 4),
        ("has_chunks_in_turn", True),
        ("max_partial_prompts", 2),
        ("chunk_tile_tokens", 64),
        ("prompt_order", PromptOrder.SHORTEST_FIRST),
    ],
)
def test_limits_of_chunks_are_named_where_they_are_set(name, value) -> None:
    usual = BatchLimits(policy=Batching.CHUNKED)
    assert not mentions(changed(aggregated(), 0, limits=usual), name)
    limits = replace(usual, **{name: value})
    assert mentions(changed(aggregated(), 0, limits=limits), name)
