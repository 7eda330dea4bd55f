"""The serving loop follows the simulator's policies, and loses no request."""

from collections.abc import Sequence

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the engine needs torch")

from clusters.fields import InputError  # noqa: E402
from models.latency.step_table import StepTable  # noqa: E402
from models.llm import LlmSpec  # noqa: E402
from planner.simulator.simulate import simulate  # noqa: E402
from planner.simulator.system import Batching, BatchLimits  # noqa: E402
from planner.validation import engine_system  # noqa: E402
from planner.workload.requests import Requests  # noqa: E402
from profiler.engine import Chunk, Decodes, Engine, EngineLimits  # noqa: E402
from profiler.layers.settings import LayerSettings  # noqa: E402
from profiler.serving import OpenLoop, ServingPolicy, serve  # noqa: E402

# 0.1 ms a prompt token, 2 ms a decode step, and both where both are.
TABLE = StepTable(
    prefill_tokens=(0.0, 1000.0),
    prefill_ms=(0.0, 100.0),
    decode_batch=(1.0,),
    decode_ms=(2.0,),
    decode_per_kv_token_ms=(0.0,),
)


class Paper:
    """An engine on paper: 10 ms a chunk, or 0.1 ms a token, and 2 ms for decodes."""

    def __init__(
        self,
        limits: EngineLimits,
        tick_s: float = 1e-6,
        chunk_ms: float = 10.0,
        token_ms: float = 0.0,
    ) -> None:
        self.limits, self.tick_s = limits, tick_s
        self.chunk_ms, self.token_ms = chunk_ms, token_ms
        self.now = 0.0
        self.steps: list[tuple[tuple[int, ...], int]] = []

    def step(
        self, chunks: Sequence[Chunk], decodes: Decodes
    ) -> tuple[list[int], list[int]]:
        slots = [*(chunk.slot for chunk in chunks), *decodes.slots]
        assert len(set(slots)) == len(slots)
        lengths = tuple(len(chunk.token_ids) for chunk in chunks)
        ms = self.chunk_ms * len(lengths) + self.token_ms * sum(lengths)
        self.now += (ms + (2.0 if decodes.slots else 0.0)) * 1e-3
        self.steps.append((lengths, len(decodes.slots)))
        return [0] * len(chunks), [0] * len(decodes.slots)

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


def served(
    paper: Paper,
    loop: OpenLoop,
    policy: ServingPolicy = ServingPolicy.PREFILL_FIRST,
) -> np.ndarray:
    rng = np.random.default_rng(0)
    found = serve(paper, loop, policy=policy, rng=rng, now_s=paper.now_s)
    assert found.is_complete
    return found.first_token_ms


def test_prompts_go_first_and_share_the_token_budget() -> None:
    paper = Paper(EngineLimits(max_batch_tokens=25, max_context_tokens=64))
    first = served(paper, requests([0.0, 0.0, 0.0], inputs=10, outputs=3))
    # 2 x 10 of 25 tokens, then the third; then two decode steps of all three.
    assert paper.steps == [((10, 10), 0), ((10,), 0), ((), 3), ((), 3)]
    np.testing.assert_allclose(first, [20, 20, 30], atol=0.1)


def test_newcomer_waits_for_the_step_under_way_and_for_a_slot() -> None:
    paper = Paper(EngineLimits(max_num_seqs=1, max_context_tokens=64))
    first = served(paper, requests([0.0, 11.0], inputs=8, outputs=4))
    # The first leaves its slot after 10 + 3 x 2 ms; then 10 ms of prefill.
    np.testing.assert_allclose(first, [10, 26], atol=0.1)


def test_answer_of_one_token_ends_with_its_prefill() -> None:
    paper = Paper(EngineLimits(max_context_tokens=64))
    served(paper, requests([0.0], inputs=8, outputs=1))
    assert paper.steps == [((8,), 0)]


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


def test_chunks_fill_what_the_decodes_leave_of_the_budget() -> None:
    paper = Paper(EngineLimits(chunk_budget_tokens=8, max_context_tokens=64))
    loop = OpenLoop(
        arrival_ms=np.array([0.0, 0.0, 1.0]),
        input_tokens=np.array([6, 10, 3]),
        output_tokens=np.array([4, 2, 1]),
    )
    served(paper, loop, ServingPolicy.CHUNKED)
    assert paper.steps == [
        ((6, 2), 0),  # the first whole, 2 of the second's 10
        ((7,), 1),  # 1 decode leaves 7 of 8: 2 + 7 = 9 of 10
        ((1, 3), 1),  # its last one, and the third; 3 tokens are left over
        ((), 2),  # the first's last token and the second's
    ]


def test_prompts_already_begun_come_before_new_ones_and_keep_their_slots() -> None:
    limits = EngineLimits(chunk_budget_tokens=4, max_num_seqs=2, max_context_tokens=64)
    paper = Paper(limits)
    served(paper, requests([0.0, 0.0, 0.0], 6, 2), ServingPolicy.CHUNKED)
    assert paper.steps == [
        ((4,), 0),
        ((2, 2), 0),
        ((3,), 1),  # the first decodes its last token and leaves its slot
        ((1, 3), 0),  # the third takes it
        ((3,), 1),
        ((), 1),
    ]


@pytest.mark.parametrize("policy", ServingPolicy)
def test_loop_and_simulator_agree_on_an_engine_of_known_steps(
    policy: ServingPolicy,
) -> None:
    """The policies are one: on exact step times the two differ by clock reads only."""
    rng = np.random.default_rng(3)
    num = 60
    arrivals = np.cumsum(rng.exponential(12.0, size=num))
    loop = OpenLoop(
        arrival_ms=arrivals - arrivals[0],
        input_tokens=rng.integers(10, 180, size=num),
        output_tokens=rng.integers(2, 30, size=num),
    )
    limits = EngineLimits(
        max_batch_tokens=100,
        chunk_budget_tokens=100,
        max_num_seqs=4,
        max_context_tokens=256,
    )
    paper = Paper(limits, chunk_ms=0.0, token_ms=0.1)
    found = serve(paper, loop, policy=policy, rng=rng, now_s=paper.now_s)
    predicted = simulate(
        engine_system(
            TABLE,
            BatchLimits(
                policy=Batching(policy.value), max_batch_tokens=100, max_num_seqs=4
            ),
            kv_capacity_tokens=8192,
        ),
        Requests(
            arrival_ms=loop.arrival_ms,
            input_tokens=loop.input_tokens,
            output_tokens=loop.output_tokens,
        ),
    )
    # A read of the clock can move an arrival to the next step: not every request is
    # alike, but nearly all are.
    same = np.isclose(found.ttft_ms, predicted.ttft_ms, rtol=0.01, atol=0.2)
    assert same.mean() > 0.9
    assert np.median(found.tpot_ms) == pytest.approx(
        np.median(predicted.tpot_ms), rel=0.02
    )


def test_steps_are_logged_as_step_tables_count_them() -> None:
    paper = Paper(EngineLimits(chunk_budget_tokens=4, max_context_tokens=64))
    rng = np.random.default_rng(0)
    found = serve(
        paper,
        requests([0.0], inputs=6, outputs=3),
        policy=ServingPolicy.CHUNKED,
        rng=rng,
        now_s=paper.now_s,
    )
    logged = [
        (step.prompt_tokens, step.squares, step.num_decodes, step.kv_tokens)
        for step in found.steps
    ]
    # 4 new tokens; 2 after 4: 2 * (2 + 2 * 4) = 20; then contexts of 7 and 8.
    assert logged == [(4, 16.0, 0, 0), (2, 20.0, 0, 0), (0, 0.0, 1, 7), (0, 0.0, 1, 8)]


@pytest.fixture
def engine(tiny_llm: LlmSpec) -> Engine:
    settings = LayerSettings(device=torch.device("cpu"), dtype=torch.float32)
    limits = EngineLimits(max_num_seqs=4, max_context_tokens=32)
    return Engine(tiny_llm, settings, limits)


def generate(engine: Engine, slot: int, prompt: list[int], num: int = 5) -> list[int]:
    """The answer of a request that is alone."""
    (token,), _ = engine.step([Chunk(slot, 0, prompt)])
    found, context = [token], len(prompt)
    for _ in range(num - 1):
        context += 1
        _, (token,) = engine.step([], Decodes([slot], [context], [token]))
        found.append(token)
    return found


def test_engine_decodes_the_same_tokens_alone_and_in_a_batch(engine: Engine) -> None:
    prompts = [[1, 2, 3, 4, 5], [9, 8, 7]]
    alone = [generate(engine, 1, prompt) for prompt in prompts]
    chunks = [Chunk(2, 0, prompts[0]), Chunk(0, 0, prompts[1])]
    tokens, _ = engine.step(chunks)
    together, contexts = [tokens], [len(prompt) for prompt in prompts]
    for _ in range(4):
        contexts = [c + 1 for c in contexts]
        _, tokens = engine.step([], Decodes([2, 0], contexts, tokens))
        together.append(tokens)
    assert [list(answer) for answer in zip(*together, strict=True)] == alone


def test_prompt_in_chunks_beside_decodes_gives_the_same_answer(engine: Engine) -> None:
    """Chunks attend to what is cached, and nobody sees another request."""
    first, second = [1, 2, 3, 4, 5], [9, 8, 7, 6, 5, 4, 3]
    alone = [generate(engine, 1, first), generate(engine, 1, second)]
    (token,), _ = engine.step([Chunk(0, 0, first)])
    answers: tuple[list[int], list[int]] = ([token], [])
    # The second is prefilled in 3 + 3 + 1 tokens while the first decodes.
    for past, num in ((0, 3), (3, 3), (6, 1)):
        decodes = Decodes([0], [5 + len(answers[0])], [answers[0][-1]])
        after, (token,) = engine.step(
            [Chunk(3, past, second[past : past + num])], decodes
        )
        answers[0].append(token)
    answers[1].append(after[0])
    while len(answers[1]) < 5:
        contexts = [5 + len(answers[0]), 7 + len(answers[1])]
        last = [answer[-1] for answer in answers]
        _, tokens = engine.step([], Decodes([0, 3], contexts, last))
        for answer, token in zip(answers, tokens, strict=True):
            answer.append(token)
    assert answers[0][:5] == alone[0]
    assert answers[1] == alone[1]
