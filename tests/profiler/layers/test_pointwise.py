"""Fused steps are used when they match the plain ones, and their absence explained."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

torch = pytest.importorskip("torch", reason="the profiler needs torch")

from profiler.features import LEFT_OUT  # noqa: E402
from profiler.layers import pointwise  # noqa: E402
from profiler.layers.pointwise import (  # noqa: E402
    PLAIN,
    fused_pointwise,
    pointwise_for,
    why_not_fused,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def why_not(fused: pointwise.Pointwise, *, has_fp8: bool = True) -> str | None:
    return why_not_fused(fused, CPU, torch.bfloat16, has_fp8=has_fp8)


@pytest.mark.slow
def test_steps_survive_a_compiler() -> None:
    """Traced and run without code being made, as no compiler may be at hand."""
    fused = fused_pointwise(partial(torch.compile, dynamic=True, backend="eager"))
    assert fused.is_fused
    assert why_not(fused) is None


@pytest.mark.parametrize("name", ["add_norm", "rotate", "gate", "quantise"])
def test_step_that_differs_is_named(name: str) -> None:
    plain: Callable[..., object] = getattr(PLAIN, name)

    def wrong(*arguments: torch.Tensor) -> object:
        found = plain(*arguments)
        if isinstance(found, tuple):
            return found[0].float() * 1.5, *found[1:]
        return found * 1.5

    told = why_not(replace(PLAIN, **{name: wrong}))
    assert told == f"{name} of 1 tokens differs from the plain one"


def test_step_that_gives_no_number_is_wrong() -> None:
    broken = replace(PLAIN, gate=lambda x: x[:, :128] * float("nan"))
    assert why_not(broken) == "gate of 1 tokens differs from the plain one"


def test_quantisation_is_tried_only_where_it_is_used() -> None:
    broken = replace(PLAIN, quantise=lambda x: (x * 0, x))
    assert why_not(broken, has_fp8=False) is None


def test_compiler_that_fails_is_a_reason() -> None:
    def compiled(step: object) -> Callable[..., object]:
        def fail(*_: object) -> object:
            raise OSError("no C compiler found\nin PATH")

        return fail

    assert why_not(fused_pointwise(compiled)) == "no C compiler found"


def test_cuda_device_gets_fused_steps_or_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", lambda step, dynamic: step)
    monkeypatch.setattr(pointwise, "why_not_fused", lambda *_, **__: None)
    found, reason = pointwise_for(CUDA, torch.bfloat16)
    assert found.is_fused
    assert reason is None
    monkeypatch.setenv(LEFT_OUT, "fused")
    assert pointwise_for(CUDA, torch.bfloat16) == (PLAIN, f"left out by {LEFT_OUT}")
    assert pointwise_for(CPU, torch.bfloat16) == (PLAIN, "not fused on a CPU")
