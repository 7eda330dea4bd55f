"""Presets of KV connectors, and how a problem file takes them."""

from dataclasses import replace
from pathlib import Path

import pytest

from clusters.fields import InputError
from clusters.mapping import from_mapping, to_mapping
from planner.kv_connectors import KvConnector
from planner.problem import EngineSettings, Problem
from planner.simulator.system import Phase
from planner.workload.workload import Workload
from tests.planner.tiny_problems import context_of, shape, tiny_problem


def engine_of(**keys: object) -> EngineSettings:
    return from_mapping(EngineSettings, keys)


@pytest.mark.parametrize("name", KvConnector.names())
def test_a_connector_sets_what_is_not_given(name: str) -> None:
    preset = KvConnector.load(name)
    engine = engine_of(kv_transfer={"connector": name})
    assert engine.kv_link_efficiency_frac == preset.link_efficiency_frac
    assert engine.kv_setup_ms == preset.setup_ms
    assert engine.kv_transfer.block_ms == preset.block_ms
    assert preset.source
    # What a plan embeds reads as the same settings again.
    assert engine_of(**to_mapping(engine)) == engine


def test_given_settings_come_before_the_connector() -> None:
    engine = engine_of(
        kv_setup_ms=7.0, kv_transfer={"connector": "nixl-tcp", "block_ms": 0.5}
    )
    assert (engine.kv_setup_ms, engine.kv_transfer.block_ms) == (7.0, 0.5)
    assert engine.kv_link_efficiency_frac == 0.02


def test_a_connector_goes_with_an_engine() -> None:
    engine = engine_of(base="vllm", kv_transfer={"connector": "mooncake-rdma"})
    assert engine.kv_link_efficiency_frac == 0.87
    assert engine.limits.max_batch_tokens == 8192


def test_without_a_connector_nothing_is_set() -> None:
    assert engine_of(kv_transfer={"mode": "by_size"}).kv_link_efficiency_frac == 0.8


def test_an_unknown_connector_is_refused_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "problem.yaml"
    path.write_text(
        "cluster: a100_1x4\n"
        "services: [{llm: opt-13b, workload: {lengths: 9x9, rate_rps: 1}}]\n"
        "engine: {kv_transfer: {connector: nixl-rdm}}\n"
    )
    with pytest.raises(InputError, match="nixl-rdma") as caught:
        Problem.load(path)
    assert str(caught.value).startswith(f"{path}: engine.kv_transfer.connector")


def test_a_slow_path_is_one_setting_away() -> None:
    """A prompt of 100 tokens goes over the same link: TCP takes 0.85/0.02 as long."""
    sent_ms = {}
    for name in ("nixl-rdma", "nixl-tcp"):
        problem = tiny_problem()
        engine = engine_of(kv_transfer={"connector": name})
        engine = replace(engine, memory=problem.engine.memory)
        evaluator = context_of(replace(problem, engine=engine)).evaluator
        deployment = evaluator.planner.deploy(
            [shape(Phase.PREFILL), shape(Phase.DECODE)]
        )
        requests = Workload.poisson(rate_rps=1.0, lengths="100x11").draw(1, seed=0)
        found = evaluator.evaluate(deployment, requests)
        (route,) = deployment.routes
        # 3 ms to set up, seven blocks of 16 tokens at 0.25 ms, and the links' latency.
        fixed_ms = 3.0 + 7 * 0.25 + route.latency_ms
        sent_ms[name] = found.transfer_p90_ms - fixed_ms
    assert sent_ms["nixl-rdma"] > 0
    assert sent_ms["nixl-tcp"] / sent_ms["nixl-rdma"] == pytest.approx(42.5, rel=1e-6)
