"""Costs of LLMs on meshes: steps, shares, memory, and why not."""

from itertools import pairwise

import numpy as np
import pytest

from planner.multiplexing.meshes import MeshKind
from planner.problem import EngineSettings
from planner.simulator.system import BatchLimits
from tests.planner.multiplexing.tiny_shared import book_of, tiny_shared

ONE, TWO, FOUR = (MeshKind(gpu_type="tiny", num_gpus=n) for n in (1, 2, 4))


def test_steps_are_those_of_the_latency_source() -> None:
    cost = book_of(tiny_shared(1.0)).costs(0, ONE)
    # 10 + 0.5 a request on one GPU; 10 + 0.1 * 100 tokens of prefill.
    assert cost.decode_ms[1.0][[0, 1, 4, 100]] == pytest.approx([10.5, 10.5, 12, 60])
    assert cost.prefill_ms[1, 1.0] == pytest.approx(20.0)
    halved = book_of(tiny_shared(1.0)).costs(0, TWO)
    assert halved.decode_ms[1.0][4] == pytest.approx(6.0)


def test_the_batch_ends_where_the_engine_or_the_memory_does() -> None:
    few = EngineSettings(limits=BatchLimits(max_num_seqs=7))
    cost = book_of(tiny_shared(1.0, engine=few)).costs(0, ONE)
    assert len(cost.decode_ms[1.0]) == 8
    assert cost.batches[-1] == 7


def test_prompts_of_a_step_stay_within_the_token_budget() -> None:
    problem = tiny_shared(
        1.0, engine=EngineSettings(limits=BatchLimits(max_batch_tokens=250))
    )
    book = book_of(problem, prompts=(1, 4))
    cost = book.costs(0, ONE)
    assert cost.prompts == {1: 1, 4: 2}
    assert cost.prefill_ms[4, 1.0] == pytest.approx(30.0)


def test_more_sms_never_take_longer() -> None:
    cost = book_of(tiny_shared(1.0)).costs(0, ONE)
    by_share = [cost.decode_ms[share] for share in sorted(cost.shares)]
    assert all(np.all(a >= b) for a, b in pairwise(by_share))


def test_a_parallelism_that_does_not_divide_the_model_has_a_reason() -> None:
    book = book_of(tiny_shared(1.0, gpus=4))
    reasons = {mesh: book.why_not(0, mesh) for mesh in (ONE, TWO, FOUR)}
    assert reasons[ONE] is None
    for mesh, reason in reasons.items():
        assert (book.costs(0, mesh) is None) == (reason is not None)
