"""Shares are what the driver gave, and proven before they are believed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the profiler needs torch")

from clusters.fields import InputError  # noqa: E402
from profiler.environment import Device  # noqa: E402
from profiler.sm_share import (  # noqa: E402
    MPS_VARIABLE,
    THREADS_VARIABLE,
    CpuThreads,
    GreenContexts,
    OwnProcess,
    least_slowdown,
    limiter_for,
    num_processors,
    own_share,
    why_not_enforced,
)

CPU, CUDA = Device(kind="cpu"), Device(kind="cuda")


class Shared:
    """A limiter and the clock of a device that slows down by `slowdown` on a share."""

    name, confines_process = "paper", False

    def __init__(self, slowdown: float) -> None:
        self.shares: tuple[float, ...] = (0.5, 0.25)
        self.slowdown, self.ms = slowdown, 1.0

    @contextmanager
    def limited(self, share: float) -> Iterator[None]:
        assert share == 0.25
        self.ms = self.slowdown
        yield
        self.ms = 1.0

    def times_ms(self, step: Any, count: int) -> np.ndarray:
        return np.full(count, self.ms)

    def now_s(self) -> float:
        return 0.0

    conditions = None


def test_share_is_believed_when_a_product_takes_longer_on_it() -> None:
    # On a quarter of the device: 4 times at best, 1 + 0.3 * 3 = 1.9 times at least.
    assert least_slowdown(0.25) == pytest.approx(1.9)
    for slowdown, is_enforced in ((4.0, True), (1.95, True), (1.85, False)):
        device = Shared(slowdown)
        why_not = why_not_enforced(device, CPU, device)
        assert (why_not is None) == is_enforced
    assert why_not_enforced(Shared(1.0), CPU, Shared(1.0)) == (
        "paper: a product on 25% of the SMs took 1.00 times as long as on all, less "
        "than 1.90: the share is not enforced"
    )


def test_threads_of_a_cpu_are_shared_and_given_back() -> None:
    torch.set_num_threads(2)
    limiter = CpuThreads((0.8, 0.6, 0.5, 0.3))
    # 0.8 of 2 threads are both; the others are one.
    assert limiter.shares == (0.5,)
    with limiter.limited(0.5):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_one_thread_cannot_be_shared() -> None:
    limiter, why_not = limiter_for(CPU, (0.5,), Shared(4.0))
    assert limiter is None
    assert why_not == "threads: no share below the whole device"


class Driver(ModuleType):
    """The driver's calls for green contexts, which come in groups of 8 SMs of 132."""

    def __init__(self, *, fails: str = "") -> None:
        super().__init__("cuda.bindings.driver")
        self.fails = fails
        self.made: list[int] = []
        self.CUdevResourceType = SimpleNamespace(CU_DEV_RESOURCE_TYPE_SM=1)
        flag = SimpleNamespace(CU_GREEN_CTX_DEFAULT_STREAM=1)
        self.CUgreenCtxCreate_flags = flag
        self.CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            if name == self.fails:
                return (801,)  # CUDA_ERROR_NOT_SUPPORTED
            if name == "cuDevSmResourceSplitByCount":
                groups, whole, _flags, wanted = arguments
                given = min(-(-wanted // 8) * 8, whole.sm.smCount)
                return 0, [_sms(given)] * groups, groups, _sms(132 - given)
            if name == "cuDeviceGetDevResource":
                return 0, _sms(132)
            if name == "cuDevResourceGenerateDesc":
                self.made.append(arguments[0][0].sm.smCount)
            return 0, 7

        return call


def _sms(count: int) -> SimpleNamespace:
    return SimpleNamespace(sm=SimpleNamespace(smCount=count))


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    found = Driver()
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", found)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda ptr, device: ptr)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    return found


def test_green_contexts_have_the_shares_that_the_driver_rounded_up(
    driver: Driver,
) -> None:
    contexts = GreenContexts(CUDA, (0.8, 0.5, 0.49, 0.3, 1.0))
    # 106, 66, 65, 40 of 132 SMs in groups of 8: 112, 72, 72 again, 40; all is no share.
    assert driver.made == [112, 72, 40]
    assert contexts.shares == (112 / 132, 72 / 132, 40 / 132)
    with contexts.limited(72 / 132):
        pass


@pytest.mark.parametrize(
    ("fails", "told"),
    [
        ("cuDeviceGetDevResource", "RuntimeError: cuDeviceGetDevResource: 801"),
        ("cuGreenCtxCreate", "RuntimeError: cuGreenCtxCreate: 801"),
    ],
)
def test_driver_without_green_contexts_is_a_reason_and_no_error(
    driver: Driver, fails: str, told: str
) -> None:
    driver.fails = fails
    assert limiter_for(CUDA, (0.5,), Shared(4.0)) == (None, told)


def test_missing_cuda_python_is_a_reason_and_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    limiter, why_not = limiter_for(CUDA, (0.5,), Shared(4.0))
    assert limiter is None
    assert why_not.startswith("ModuleNotFoundError: ")
    assert "cuda" in why_not


def test_process_has_the_share_of_its_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(MPS_VARIABLE, "40")
    assert own_share(CUDA) == 0.4
    limiter = OwnProcess(CUDA)
    assert (limiter.name, limiter.shares) == ("mps", (0.4,))
    with limiter.limited(0.4):
        pass
    with pytest.raises(ValueError, match=r"not 0\.6"), limiter.limited(0.6):
        pass
    monkeypatch.setenv(MPS_VARIABLE, "soon")
    assert own_share(CUDA) == 1.0
    with pytest.raises(InputError, match=MPS_VARIABLE):
        OwnProcess(CUDA)
    monkeypatch.setenv(THREADS_VARIABLE, str(num_processors()))
    assert own_share(CPU) == 1.0
