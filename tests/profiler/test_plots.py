"""The plots show what was measured; drawn on axes that only write down."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from models.latency.profile_build import fit_profile
from models.llm import LlmSpec
from models.profile_records import (
    Environment,
    Role,
    Spread,
    Status,
    StepPoint,
    StepRecord,
)
from models.profile_table import ProfileTable, write_profile_table
from profiler.grid import decode_point
from profiler.plots import (
    plot_chunks,
    plot_decode_cost,
    plot_mixed,
    plot_rates,
    plot_shares,
    plot_tile_edges,
    plot_times,
    write_plots,
)

LLM = LlmSpec.load("opt-13b")
CHUNK, DECODES = StepPoint(new_tokens=(512,)), decode_point(8, 1000)
MIXED = StepPoint(new_tokens=(512,), num_decodes=8, kv_tokens=8000.0)


class Axes:
    """Axes that keep the curves by their label; any other call is fine."""

    def __init__(self) -> None:
        self.curves: dict[str, tuple[list[float], list[float]]] = {}
        self.scales: list[str] = []

    def plot(self, xs: Any, ys: Any, *_: object, label: str, **__: object) -> None:
        self.curves[label] = (list(map(float, xs)), list(map(float, ys)))

    def get_legend_handles_labels(self) -> tuple[list[str], list[str]]:
        return list(self.curves), list(self.curves)

    def set_xscale(self, scale: str) -> None:
        self.scales.append(f"x {scale}")

    def set_yscale(self, scale: str) -> None:
        self.scales.append(f"y {scale}")

    def __getattr__(self, name: str) -> Callable[..., None]:
        assert name in {
            "set_xlabel",
            "set_ylabel",
            "set_ylim",
            "legend",
            "axhline",
            "axvline",
        }
        return lambda *_, **__: None


def layer_ms(point: StepPoint) -> float:
    """A layer of 1 ms and 1 ms for each 100 tokens; decodes 2 ms and 1 for 1000."""
    prefill = 1 + point.prompt_tokens / 100
    decode = 2 + point.kv_tokens / 1000
    return {"prefill": prefill, "decode": decode, "mixed": prefill + decode}[
        point.phase
    ]


def record(point: StepPoint, part: str = "dense", *, share: float = 1.0) -> StepRecord:
    ms = layer_ms(point) / share
    return StepRecord(
        environment=Environment(device="synthetic", device_name="p", gpu="p"),
        llm=LLM,
        tp=1,
        part=part,
        dtype="bf16",
        sm_share_frac=share,
        point=point,
        role=Role.FIT if share == 1.0 and point != MIXED else Role.PROBE,
        status=Status.OK,
        step=Spread(ms=ms, p10_ms=ms, p90_ms=ms, ci_frac=0.0, num_samples=9),
    )


PROMPTS = [record(StepPoint(new_tokens=(n,))) for n in (128, 256, 512, 1024, 2048)]
BATCHES = [record(decode_point(b, c)) for b in (1, 8, 64) for c in (100, 1000)]
ENDS = [record(r.point, "ends") for r in (*PROMPTS, *BATCHES)]
RECORDS = [*PROMPTS, *BATCHES, *ENDS, record(MIXED), record(CHUNK, share=0.5)]


def test_times_and_rates_are_those_measured() -> None:
    axes = Axes()
    plot_times(PROMPTS, ax=axes)
    xs, ys = axes.curves["opt-13b TP1 dense"]
    assert xs == [128, 256, 512, 1024, 2048]
    assert ys == pytest.approx([2.28, 3.56, 6.12, 11.24, 21.48])
    after = record(StepPoint(new_tokens=(1024,), past_tokens=(512,)))
    plot_rates([*PROMPTS, after], ax=axes)
    assert len(axes.curves["opt-13b TP1 dense"][0]) == len(PROMPTS)
    # 1024 tokens in 11.24 ms.
    assert axes.curves["opt-13b TP1 dense"][1][3] == pytest.approx(91.1, abs=0.05)


def test_share_is_drawn_as_slowdown() -> None:
    axes = Axes()
    plot_shares([record(CHUNK), record(CHUNK, share=0.5)], ax=axes)
    assert axes.curves == {"prefill 1x512": ([0.5, 1.0], [2.0, 1.0])}


def test_mixed_step_is_held_against_the_laws() -> None:
    axes = Axes()
    profile = fit_profile(ProfileTable(records=tuple(RECORDS)))
    plot_mixed(RECORDS, profile, ax=axes)
    # The device takes the sum: 6.12 + 10 ms.
    xs, ratios = axes.curves["sum"]
    assert xs == pytest.approx([16.12])
    assert ratios == pytest.approx([1.0])
    assert axes.curves["max"][1] == pytest.approx([10 / 16.12])
    # A single step is too few to trust a fit, but it is drawn.
    assert set(axes.curves) == {"shared", "sum", "max", "fitted"}


def test_chunks_are_drawn_up_to_the_whole_prompt() -> None:
    axes = Axes()
    plot_chunks(fit_profile(ProfileTable(records=tuple(RECORDS))), ax=axes)
    sizes, speeds = axes.curves["opt-13b"]
    assert sizes[-1] == 2048
    assert speeds[-1] == pytest.approx(1.0)
    assert sorted(speeds) == speeds
    assert axes.scales == ["x log"]


def test_decode_cost_is_drawn_over_that_of_prefill() -> None:
    axes = Axes()
    plot_decode_cost(fit_profile(ProfileTable(records=tuple(RECORDS))), ax=axes)
    batches, ratios = axes.curves["opt-13b"]
    assert {1.0, 2.0, 18.0} <= set(batches)
    # A layer and the ends alike; at batch 1 a step takes 2 + 1024/1000 ms for a token,
    # a prompt of 1024 tokens 11.24 ms.
    assert ratios[0] == pytest.approx(3.024 / (11.24 / 1024), rel=0.01)
    assert sorted(ratios, reverse=True) == ratios


def test_tile_edge_is_drawn_as_what_a_token_more_costs() -> None:
    axes = Axes()
    plot_tile_edges([*PROMPTS, record(StepPoint(new_tokens=(257,)))], ax=axes)
    assert axes.curves == {"opt-13b TP1 dense": ([256.0], [pytest.approx(0.01 / 3.56)])}


def test_picture_has_a_place_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Axes] = []

    class Figure:
        def __init__(self, **_: object) -> None: ...

        def subplots(self, rows: int, columns: int) -> list[list[Axes]]:
            drawn.extend(Axes() for _ in range(rows * columns))
            return [drawn[columns * i : columns * (i + 1)] for i in range(rows)]

        def tight_layout(self) -> None: ...

        def savefig(self, path: Path, **_: object) -> None:
            path.write_bytes(b"png")

    module = ModuleType("matplotlib.figure")
    module.Figure = Figure  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "matplotlib", ModuleType("matplotlib"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", module)
    edge = record(StepPoint(new_tokens=(257,)))
    write_profile_table(tmp_path / "records.jsonl", [*RECORDS, edge])
    profile = fit_profile(ProfileTable(records=tuple(RECORDS)))
    (tmp_path / "profile.json").write_text(profile.to_json())
    assert write_plots(tmp_path) == ["plots.png"]
    assert (tmp_path / "plots.png").exists()
    assert all(axes.curves for axes in drawn)


def test_without_matplotlib_there_is_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert write_plots(tmp_path) == []
