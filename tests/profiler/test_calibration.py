"""What the host adds is told apart from what the layers take."""

from collections.abc import Sequence

import pytest

pytest.importorskip("torch", reason="the engine needs torch")

from models.latency.step_table import StepTable
from profiler.calibration import calibrate
from profiler.engine import Chunk, Decodes, EngineLimits

LIMITS = EngineLimits(max_num_seqs=128, max_context_tokens=4096)
# Layers: 0.1 ms a prompt token; decodes 5 ms and 1/1000 ms a token.
LAYERS = StepTable(
    prefill_tokens=(0.0, 8192.0),
    prefill_ms=(0.0, 819.2),
    decode_batch=(1.0, 128.0),
    decode_ms=(5.0, 5.0),
    decode_per_kv_token_ms=(1e-3, 1e-3),
)


class Hosted:
    """An engine that launches for 20 ms while its device computes, then reads for 2 ms.

    Decodes are captured: they launch nothing.
    """

    def __init__(self) -> None:
        self.limits, self.now = LIMITS, 0.0

    def step(
        self, chunks: Sequence[Chunk], decodes: Decodes
    ) -> tuple[list[int], list[int]]:
        tokens = sum(len(chunk.token_ids) for chunk in chunks)
        batch, kv = len(decodes.slots), sum(decodes.contexts)
        device = LAYERS.mixed_step_ms([tokens] if tokens else [], None, batch, kv)
        self.now += (max(device, 20.0 if chunks else 0.0) + 2.0) * 1e-3
        return [0] * len(chunks), [0] * batch

    def now_s(self) -> float:
        return self.now


@pytest.fixture
def engine() -> Hosted:
    return Hosted()


def test_launches_are_a_floor_and_the_rest_is_added(engine: Hosted) -> None:
    found = calibrate(engine, LAYERS, now_s=engine.now_s)
    assert found.floor_ms == pytest.approx(22.0)
    assert found.prefill_ms == pytest.approx(2.0)
    assert found.decode_ms == pytest.approx(2.0)


def test_calibrated_table_predicts_the_steps_of_the_engine(engine: Hosted) -> None:
    table = calibrate(engine, LAYERS, now_s=engine.now_s).applied_to(LAYERS)
    for tokens in (1, 100, 199, 201, 3000):
        began = engine.now
        engine.step([Chunk(0, 0, [7] * tokens)], Decodes())
        took_ms = (engine.now - began) * 1e3
        assert table.prefill_step_ms([tokens]) == pytest.approx(took_ms)
    began = engine.now
    engine.step([], Decodes(range(9), [100] * 9, [7] * 9))
    assert table.decode_step_ms(9, 900) == pytest.approx((engine.now - began) * 1e3)


def test_points_cover_prompts_decodes_and_both_within_the_slots(
    engine: Hosted,
) -> None:
    points = [
        each.point for each in calibrate(engine, LAYERS, now_s=engine.now_s).points
    ]
    phases = [point.phase for point in points]
    assert (phases.count("prefill"), phases.count("decode")) == (5, 4)
    assert phases.count("mixed") == 2
    assert max(point.prompt_tokens for point in points) == 2048
    assert max(len(p.new_tokens) + p.num_decodes for p in points) <= 128


def test_engine_faster_than_its_layers_gets_nothing_added(engine: Hosted) -> None:
    slow = LAYERS.scaled(3.0)
    found = calibrate(engine, slow, now_s=engine.now_s)
    assert (found.prefill_ms, found.decode_ms) == (0.0, 0.0)


def test_slow_point_gets_one_run(engine: Hosted) -> None:
    runs = []
    step = engine.step

    def counted(chunks: Sequence[Chunk], decodes: Decodes) -> object:
        runs.append((len(chunks), len(decodes.slots)))
        return step(chunks, decodes)

    engine.step = counted  # type: ignore[method-assign]
    calibrate(engine, LAYERS, max_point_s=0.0, now_s=engine.now_s)
    # After seven steps of few tokens, so that compilers have met them.
    assert len(runs) == 7 + 5 + 4 + 2
