"""Each sample lies between two events after a flush; the host looks meanwhile."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the profiler needs torch")

from models.profile_records import Conditions  # noqa: E402
from profiler import cuda_clock  # noqa: E402
from profiler.cuda_clock import CudaClock  # noqa: E402
from profiler.environment import Device  # noqa: E402


@pytest.fixture
def clock(fake_cuda: Any, monkeypatch: pytest.MonkeyPatch) -> CudaClock:
    device = Device(kind="cuda")
    monkeypatch.setattr(Device, "torch_device", torch.device("cpu"))
    return CudaClock(device)


def test_samples_are_times_between_events(clock: CudaClock, fake_cuda: Any) -> None:
    # The fake device's clock ticks once at every call: the step makes three of them.
    def step() -> None:
        for _ in range(3):
            fake_cuda.call("kernel")

    assert clock.times_ms(step, 2).tolist() == [4.0, 4.0]
    once = ["record", "kernel", "kernel", "kernel", "record"]
    assert fake_cuda.calls == [*once, *once, "synchronize"]


def test_l2_cache_is_written_over_before_every_sample(clock: CudaClock) -> None:
    # Four times the 64 bytes of the fake device's cache.
    assert clock._flush.numel() == 256
    seen = []
    clock._flush.fill_(1)

    def step() -> None:
        seen.append(int(clock._flush.sum()))
        clock._flush.fill_(1)

    clock.times_ms(step, 3)
    assert seen == [0, 0, 0]


def test_conditions_are_read_while_the_device_is_busy(
    clock: CudaClock, fake_cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = Conditions(power_w=600.0)

    def look(_device: Device) -> Conditions:
        fake_cuda.call("look")
        return busy

    monkeypatch.setattr(cuda_clock, "conditions_of", look)
    assert clock.conditions is None
    clock.times_ms(lambda: None, 3)  # a warm-up: nobody looks
    assert clock.conditions is None
    clock.times_ms(lambda: None, 6)
    assert clock.conditions == busy
    # After the last event was queued, before the host waits for it.
    assert fake_cuda.calls[-3:] == ["record", "look", "synchronize"]
    clock.times_ms(lambda: None, 6)  # a moment later: it looked just now
    assert fake_cuda.calls.count("look") == 1
