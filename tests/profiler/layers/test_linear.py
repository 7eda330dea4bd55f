"""Fp8 products are scaled row by row, and used only where they are right."""

import pytest

torch = pytest.importorskip("torch", reason="the profiler needs torch")

from profiler.features import LEFT_OUT  # noqa: E402
from profiler.layers.linear import (  # noqa: E402
    Fp8Linear,
    fits_fp8,
    quantise_rows,
    why_not_fp8,
)

CPU = torch.device("cpu")
FP8 = torch.float8_e4m3fn


def test_rows_are_quantised_each_with_its_own_scale() -> None:
    rows = torch.tensor([[1.0, -2.0, 0.5, 0.25], [100.0, 400.0, -800.0, 50.0]])
    found, scale = quantise_rows(rows)
    assert found.dtype is FP8
    # The largest of a row becomes the largest number of the format.
    torch.testing.assert_close(scale.flatten() * 448.0, torch.tensor([2.0, 800.0]))
    torch.testing.assert_close(found.float() * scale, rows, rtol=0.07, atol=0.0)


def test_product_is_called_as_this_torch_wants_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a device that has shapes and no numbers: it is CUDA's call otherwise."""
    linear = Fp8Linear(64, 32, device=CPU, dtype=torch.bfloat16)
    meta = torch.device("meta")
    linear.weight, linear._scale = linear.weight.to(meta), linear._scale.to(meta)
    x = torch.empty(17, 64, device=meta, dtype=torch.bfloat16)
    assert linear(x).shape == (17, 32)
    assert linear(x).dtype is torch.bfloat16


def test_widths_that_the_product_does_not_take() -> None:
    assert fits_fp8(64, 48)
    assert not fits_fp8(64, 40)


def test_fp8_is_used_only_where_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not_fp8(CPU, torch.float16) == "fp8 products give bf16 here"

    def exact(self: Fp8Linear, rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return (rows.float() * scale) @ self.exact_weight().t()

    monkeypatch.setattr(Fp8Linear, "_product", exact)
    assert why_not_fp8(CPU, torch.bfloat16) is None

    def doubled(*arguments: torch.Tensor) -> torch.Tensor:
        return 2.0 * exact(*arguments)

    monkeypatch.setattr(Fp8Linear, "_product", doubled)
    assert why_not_fp8(CPU, torch.bfloat16) == "fp8 products are off by 100%"

    def missing(*_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("torch._scaled_mm is only supported on CUDA devices\n...")

    monkeypatch.setattr(Fp8Linear, "_product", missing)
    assert why_not_fp8(CPU, torch.bfloat16) == (
        "torch._scaled_mm is only supported on CUDA devices"
    )
    monkeypatch.setenv(LEFT_OUT, "fp8")
    assert why_not_fp8(CPU, torch.bfloat16) == f"left out by {LEFT_OUT}"
