"""The serving loop follows the simulator's policy, and loses no request."""

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("torch", reason="the engine needs torch")

from clusters.fields import InputError
from models.llm import LlmSpec
from planner.simulator.simulate import simulate
from planner.simulator.system import BatchLimits
from planner.validation import engine_system
from planner.workload.requests import Requests
from profiler.engine import Engine, EngineLimits
from profiler.layers.settings import LayerSettings
from profiler.serving import OpenLoop, serve


class Paper:
    """An engine on paper: a prefill takes 10 ms a request, a decode step 2 ms."""

    def __init__(self, limits: EngineLimits, tick_s: float = 1e-6) -> None:
        self.limits, self.tick_s = limits, tick_s
        self.now = 0.0
        self.batches: list[tuple[str, int]] = []

    def prefill(
        self, slots: Sequence[int], token_ids: Sequence[Sequence[int]]
    ) -> list[int]:
        self.now += 0.010 * len(slots)
        self.batches.append(("prefill", len(slots)))
        return [0] * len(slots)

    def decode(
        self, slots: Sequence[int], contexts: Sequence[int], tokens: Sequence[int]
    ) -> list[int]:
        assert len(set(slots)) == len(slots)
        self.now += 0.002
        self.batches.append(("decode", len(slots)))
        return [0] * len(slots)

    def now_s(self) -> float:
        # Looking at the clock takes a moment, so that waiting ends.
        self.now += self.tick_s
        return self.now


def requests(arrivals: list[float], inputs: int, outputs: int) -> OpenLoop:
    num = len(arrivals)
    return OpenLoop(
        arrival_ms=np.array(arrivals),
        input_tokens=np.full(num, inputs),
        output_tokens=np.full(num, outputs),
    )


def served(paper: Paper, loop: OpenLoop) -> np.ndarray:
    found = serve(paper, loop, rng=np.random.default_rng(0), now_s=paper.now_s)
    assert found.is_complete
    return found.first_token_ms


def test_prompts_go_first_and_share_the_token_budget() -> None:
    paper = Paper(EngineLimits(max_batch_tokens=25, max_context_tokens=64))
    first = served(paper, requests([0.0, 0.0, 0.0], inputs=10, outputs=3))
    # 2 x 10 of 25 tokens, then the third; then two decode steps of all three.
    kinds = [("prefill", 2), ("prefill", 1), ("decode", 3), ("decode", 3)]
    assert paper.batches == kinds
    np.testing.assert_allclose(first, [20, 20, 30], atol=0.1)


def test_newcomer_waits_for_the_step_under_way_and_for_a_slot() -> None:
    paper = Paper(EngineLimits(max_num_seqs=1, max_context_tokens=64))
    first = served(paper, requests([0.0, 11.0], inputs=8, outputs=4))
    # The first leaves its slot after 10 + 3 x 2 ms; then 10 ms of prefill.
    np.testing.assert_allclose(first, [10, 26], atol=0.1)


def test_answer_of_one_token_ends_with_its_prefill() -> None:
    paper = Paper(EngineLimits(max_context_tokens=64))
    served(paper, requests([0.0], inputs=8, outputs=1))
    assert paper.batches == [("prefill", 1)]


def test_request_that_no_slot_holds_is_refused() -> None:
    paper = Paper(EngineLimits(max_context_tokens=16))
    with pytest.raises(InputError, match="at most 16 tokens"):
        served(paper, requests([0.0], inputs=12, outputs=8))


def test_time_limit_ends_a_run_with_what_was_answered() -> None:
    paper = Paper(EngineLimits(max_context_tokens=64), tick_s=1e-3)
    loop = requests([0.0, 5_000.0], inputs=8, outputs=2)
    found = serve(
        paper, loop, rng=np.random.default_rng(0), now_s=paper.now_s, max_s=0.1
    )
    assert not found.is_complete
    assert np.isfinite(found.finish_ms).tolist() == [True, False]


def test_loop_and_simulator_agree_on_an_engine_of_known_steps() -> None:
    """The policies are one: on exact step times the two differ by clock reads only."""
    rng = np.random.default_rng(3)
    num = 60
    arrivals = np.cumsum(rng.exponential(12.0, size=num))
    loop = OpenLoop(
        arrival_ms=arrivals - arrivals[0],
        # One prompt a step, so that 10 ms a request is a time by tokens too.
        input_tokens=np.full(num, 100),
        output_tokens=rng.integers(2, 30, size=num),
    )
    limits = EngineLimits(max_batch_tokens=100, max_num_seqs=4, max_context_tokens=256)
    found = serve(paper := Paper(limits), loop, rng=rng, now_s=paper.now_s)
    from models.latency.step_table import StepTable

    table = StepTable(
        prefill_tokens=(1.0,),
        prefill_ms=(10.0,),
        decode_batch=(1.0,),
        decode_ms=(2.0,),
        decode_per_kv_token_ms=(0.0,),
    )
    system = engine_system(
        table,
        BatchLimits(max_batch_tokens=100, max_num_seqs=4),
        kv_capacity_tokens=8192,
    )
    predicted = simulate(
        system,
        Requests(
            arrival_ms=loop.arrival_ms,
            input_tokens=loop.input_tokens,
            output_tokens=loop.output_tokens,
        ),
    )
    ttft = np.percentile(found.ttft_ms, [50, 90])
    np.testing.assert_allclose(
        ttft, np.percentile(predicted.ttft_ms, [50, 90]), rtol=0.02
    )
    assert np.median(found.tpot_ms) == pytest.approx(
        np.median(predicted.tpot_ms), rel=0.02
    )


def test_engine_decodes_the_same_tokens_alone_and_in_a_batch(
    tiny_llm: LlmSpec,
) -> None:
    import torch

    settings = LayerSettings(device=torch.device("cpu"), dtype=torch.float32)
    limits = EngineLimits(max_num_seqs=4, max_context_tokens=32)
    prompts = [[1, 2, 3, 4, 5], [9, 8, 7]]

    def generate(engine: Engine, slots: list[int], asked: list[list[int]]) -> list[int]:
        tokens = engine.prefill(slots, asked)
        contexts = [len(prompt) for prompt in asked]
        for _ in range(4):
            contexts = [c + 1 for c in contexts]
            tokens = engine.decode(slots, contexts, tokens)
        return tokens

    engine = Engine(tiny_llm, settings, limits)
    together = generate(engine, [2, 0], prompts)
    alone = [generate(engine, [1], [prompt])[0] for prompt in prompts]
    assert together == alone
