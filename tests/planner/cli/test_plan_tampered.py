"""A plan file that was changed by hand is refused, or at least told of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.planner.cli.conftest import one_error

Run = Callable[..., Any]

# What is done to the plan file, and what the error says.
TAMPERED: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "another version": (
        '"phaseplan/plan-v1"',
        '"phaseplan/plan-v9"',
        ("api_version = 'phaseplan/plan-v9': expected 'phaseplan/plan-v1'",),
    ),
    "no plan at all": (
        '"phaseplan/plan-v1"',
        '"something/else"',
        ("api_version = 'something/else'",),
    ),
    "GPU that does not exist": (
        '"stage_gpus": [\n          [\n            0\n',
        '"stage_gpus": [\n          [\n            99\n',
        ("deployment.gpus = 99: expected a GPU between 0 and 3",),
    ),
    "more KV cache than fits": (
        '"kv_capacity_tokens": ',
        '"kv_capacity_tokens": 1000',
        ("deployment.replicas[0].kv_capacity_tokens = ", "tokens that fit"),
    ),
    "unknown key": ('"status"', '"state"', ("state = ", "nearest is 'status'")),
    "wrong type": ('"seed": 0', '"seed": "zero"', ("seed = 'zero'", "a whole number")),
    "out of range": ('"seed": 0', '"seed": -1', ("seed = -1: expected a number >= 0",)),
    "NaN": ('"seed": 0', '"seed": NaN', ("'NaN': expected a finite number",)),
    "cut off": ('"deployment": {', "", ("expected JSON (",)),
}


@pytest.mark.parametrize("command", ["simulate", "explain"])
@pytest.mark.parametrize("name", TAMPERED)
def test_tampered_plan_is_one_line(
    command: str, name: str, phaseplan: Run, plan_file: Path, planned: str
) -> None:
    old, new, fragments = TAMPERED[name]
    assert old in planned
    plan_file.write_text(planned.replace(old, new, 1))
    one_error(phaseplan(command, plan_file), "plan.json", *fragments)


def test_plan_with_other_numbers_than_its_simulation_is_told(
    phaseplan: Run, plan_file: Path, planned: str
) -> None:
    assert '"num_rejected": 0' in planned
    plan_file.write_text(planned.replace('"num_rejected": 0', '"num_rejected": 7'))
    ended = phaseplan("simulate", plan_file)
    assert ended.code == 0
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"warning: {plan_file}: this is not what was simulated")
