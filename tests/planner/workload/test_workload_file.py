"""How files write workloads: strict, and read back as they were."""

from pathlib import Path
from typing import Any

import pytest

from clusters.fields import InputError
from clusters.serde import dump_yaml, from_mapping, to_mapping
from planner.workload.workload import Workload

TRACE = "arrival_ms,input_tokens,output_tokens\n0,10,1\n1000,20,2\n4000,30,3\n"

FORMS: dict[str, dict[str, Any]] = {
    "preset": {"lengths": "chat", "rate_rps": 3},
    "fixed_gap": {"lengths": "512x64", "arrivals": "fixed_gap", "rate_rps": 3},
    "gamma": {
        "lengths": {"kind": "fixed", "input_tokens": 5, "output_tokens": 6},
        "arrivals": {"kind": "gamma", "cv": 2},
        "rate_rps": 3,
    },
    "lognormal": {
        "lengths": {
            "kind": "lognormal",
            "input": {"median_tokens": 100, "p90_tokens": 300},
            "output": {"mean_tokens": 50, "cv": 1, "max_tokens": 500},
            "correlation": 0.3,
        },
        "rate_rps": 3,
    },
    "piecewise": {
        "lengths": "8x8",
        "arrivals": {
            "kind": "piecewise",
            "segments": [
                {"duration_s": 60, "multiplier": 1},
                {"duration_s": 30, "multiplier": 4},
            ],
        },
        "rate_rps": 3,
    },
    "closed": {"lengths": "8x8", "concurrency": 16},
    "ramped": {
        "lengths": "8x8",
        "arrivals": {"kind": "closed_loop", "concurrency": 16, "ramp_s": 5},
    },
    "sessions": {
        "lengths": "8x8",
        "sessions": {"mean_turns": 3, "think_s": 10, "shared_prompt_tokens": 40},
        "rate_rps": 3,
    },
    "trace": {"trace": "tiny.csv", "rate_rps": 3},
    "recorded": {"name": "monday", "trace": "tiny.csv", "head": 2, "jitter_ms": 10},
    "empirical": {"lengths": {"kind": "empirical", "trace": "tiny.csv"}, "rate_rps": 3},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_workload_read_written_and_read_draws_the_same(
    form: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "tiny.csv").write_text(TRACE)
    workload = from_mapping(Workload, form, file=str(tmp_path / "problem.yaml"))
    again = from_mapping(Workload, to_mapping(workload))
    assert dump_yaml(to_mapping(again)) == dump_yaml(to_mapping(workload))
    first, second = workload.draw(5, seed=1), again.draw(5, seed=1)
    assert first.arrival_ms.tolist() == second.arrival_ms.tolist()
    assert first.input_tokens.tolist() == second.input_tokens.tolist()
    assert first.output_tokens.tolist() == second.output_tokens.tolist()


def test_text_alone_is_a_trace(tmp_path: Path) -> None:
    (tmp_path / "tiny.csv").write_text(TRACE)
    workload = from_mapping(Workload, "tiny.csv", file=str(tmp_path / "problem.yaml"))
    assert workload.name == "tiny"
    assert workload.mean_rate_rps == 0.5


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"lengths": "chat", "rate": 3}, "rate = 3: expected a known key (nearest is"),
        ({"lengths": "chat"}, "rate_rps = None: expected a rate"),
        ({"lengths": "chat", "rate_rps": 0}, "rate_rps = 0.0: expected a number > 0"),
        ({"lengths": "chat", "rate_rps": float("nan")}, "rate_rps = nan: expected a f"),
        ({"lengths": "caht", "rate_rps": 1}, "lengths = 'caht': expected a preset"),
        ({"rate_rps": 1}, "trace = None: expected either a trace or lengths"),
        ({"trace": "a.csv", "lengths": "chat"}, "expected either a trace or lengths"),
        (
            {"trace": "a.csv", "concurrency": 2},
            "no arrivals, concurrency or sessions beside it",
        ),
        ({"trace": "none.csv"}, "none.csv"),
        (
            {"lengths": "8x8", "arrivals": "poison", "rate_rps": 1},
            "arrivals = 'poison': expected poisson, fixed_gap, or a mapping with a "
            "kind (nearest is 'poisson')",
        ),
        (
            {"lengths": "8x8", "arrivals": {"kind": "gamma", "cv": -1}, "rate_rps": 1},
            "arrivals.cv = -1.0: expected a number > 0",
        ),
        (
            {"lengths": {"kind": "fixed", "input_tokens": 0, "output_tokens": 1}},
            "lengths.input_tokens = 0: expected a number >= 1",
        ),
    ],
)
def test_mistakes_are_named(form: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        from_mapping(Workload, form, file="problem.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_requests_in_memory_have_no_file_form(tmp_path: Path) -> None:
    (tmp_path / "tiny.csv").write_text(TRACE)
    recorded = Workload.from_trace(tmp_path / "tiny.csv").trace
    assert recorded is not None
    with pytest.raises(InputError, match="a trace that was read from a file"):
        to_mapping(Workload.from_requests(recorded))
