"""Steps are captured on the right stream where that works, and run eagerly else."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the profiler needs torch")

from models.llm import LlmSpec  # noqa: E402
from models.profile_records import StepPoint  # noqa: E402
from profiler.features import LEFT_OUT  # noqa: E402
from profiler.layers.settings import LayerSettings  # noqa: E402
from profiler.steps import StepRunner, capture  # noqa: E402
from profiler.subject import Subject  # noqa: E402
from profiler.timing import SyntheticClock, TimingSettings  # noqa: E402

POINT = StepPoint(num_decodes=2, kv_tokens=8.0)
TIMING = TimingSettings(num_warmup=0, min_samples=6, target_ci_frac=9.0)


@pytest.fixture
def runner(tiny_llm: LlmSpec, monkeypatch: pytest.MonkeyPatch) -> StepRunner:
    """A layer on the CPU that thinks it is on a CUDA device when it is captured."""
    settings = LayerSettings(device=torch.device("cpu"), dtype=torch.float32)
    subject = Subject(llm=tiny_llm, part="dense", dtype="fp32")
    found = StepRunner(subject, settings, 64, (1, 2))
    found._why_eager = None
    return found


class Counting(SyntheticClock):
    """A clock that runs each step once and says that it took a millisecond a layer."""

    def times_ms(self, step: Any, count: int) -> np.ndarray:
        step()
        return np.full(count, 1.0)


def test_step_is_warmed_up_captured_and_replayed(fake_cuda: Any) -> None:
    runs = []
    replay = capture(lambda: runs.append(len(runs)) or len(runs))
    # Twice to warm up, once to be captured.
    assert len(runs) == 3
    assert fake_cuda.calls == ["synchronize", "capture_begin", "capture_end"]
    assert fake_cuda.used == ["side", "side"]
    # A replay gives what the capture wrote to, and does not run the step again.
    assert (replay(), replay()) == (3, 3)
    assert fake_cuda.calls[-2:] == ["replay", "replay"]
    assert len(runs) == 3


def test_step_is_captured_on_the_stream_of_its_sm_share(fake_cuda: Any) -> None:
    fake_cuda.stream = "green"
    capture(lambda: None)
    assert fake_cuda.used == ["green", "green"]


def test_allocator_is_emptied_before_a_capture_only_when_memory_is_short(
    fake_cuda: Any,
) -> None:
    capture(lambda: None)
    assert "empty_cache" not in fake_cuda.calls
    fake_cuda.free_bytes = 20
    capture(lambda: None)
    assert fake_cuda.calls.index("empty_cache") < fake_cuda.calls.index(
        "capture_begin", 3
    )


def test_capture_is_ended_when_the_step_fails(fake_cuda: Any) -> None:
    runs = []

    def step() -> None:
        runs.append(0)
        if len(runs) == 3:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        capture(step)
    assert fake_cuda.calls[-1] == "capture_end"


def test_layer_that_can_be_captured_is(runner: StepRunner, fake_cuda: Any) -> None:
    clock = Counting(rng=np.random.default_rng(0))
    runner.measure(POINT, clock, TIMING)
    assert fake_cuda.calls.count("capture_begin") == 2
    assert runner.backend == "sdpa contiguous-kv graph"
    assert runner.why_eager is None


def test_layer_that_cannot_be_captured_runs_eagerly_and_says_why(
    runner: StepRunner, fake_cuda: Any
) -> None:
    fake_cuda.fails = "capture_end"
    clock = Counting(rng=np.random.default_rng(0))
    runner.measure(POINT, clock, TIMING)
    assert runner.backend == "sdpa contiguous-kv eager"
    assert runner.why_eager == "CUDA error: capture_end"
    # It is not tried at every point again.
    assert fake_cuda.calls.count("capture_begin") == 1


def test_graphs_are_left_out_when_somebody_says_so(
    tiny_llm: LlmSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEFT_OUT, "fp8, graphs")
    settings = LayerSettings(device=torch.device("meta"), dtype=torch.float32)
    subject = Subject(llm=tiny_llm, part="ends", dtype="fp32")
    monkeypatch.setattr("profiler.steps.Ends", lambda *_: None)
    runner = StepRunner(subject, settings, 1)
    assert runner.why_eager == "there are no graphs on a CPU"
    monkeypatch.setattr(LayerSettings, "device", torch.device("cuda"))
    assert StepRunner(subject, settings, 1).why_eager == f"left out by {LEFT_OUT}"
