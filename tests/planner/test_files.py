"""Plan files: they replay byte for byte, and nothing wrong gets in."""

import json

import pytest

from clusters.fields import InputError
from planner.files import input_hashes, plan_to_mapping, read_plan, write_plan
from planner.plan import PLAN_VERSION
from planner.slo import Slo
from planner.solve import solve
from tests.planner.tiny_problems import QUICK, TINY_LIBRARY, tiny_problem


@pytest.fixture(scope="module")
def plan():
    # Limits as people write them, in whole numbers.
    problem = tiny_problem(slo=Slo(ttft_ms=60, tpot_ms=16), rate_rps=20)
    return solve(problem, TINY_LIBRARY, method="distserve-high", effort=QUICK).best


@pytest.fixture
def tampered(plan, tmp_path):
    """Writes the plan after a change to its plain data."""

    def write(change):
        data = json.loads(json.dumps(plan_to_mapping(plan)))
        change(data)
        path = tmp_path / "tampered.json"
        path.write_text(json.dumps(data, indent=2), encoding="utf-8")
        return path

    return write


def test_a_plan_reads_back_byte_for_byte(plan, tmp_path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    write_plan(plan, first)
    write_plan(read_plan(first), second)
    assert first.read_bytes() == second.read_bytes()
    assert read_plan(first).api_version == PLAN_VERSION


def test_malformed_json_is_named_with_its_line(plan, tmp_path):
    path = tmp_path / "plan.json"
    write_plan(plan, path)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[2] = "  oops"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=r"plan\.json:3"):
        read_plan(path)


def test_a_gpu_used_twice_is_found(tampered):
    def reuse(data):
        first, second = data["deployment"]["replicas"][:2]
        second["stage_gpus"] = first["stage_gpus"]
        second["parallelism"] = first["parallelism"]

    with pytest.raises(InputError, match="each GPU in one replica only") as error:
        read_plan(tampered(reuse))
    assert "tampered.json" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(api_version="phaseplan/plan-v9"), "api_version"),
        (lambda d: d.pop("api_version"), "api_version"),
        (lambda d: d.update(sed=1), "'seed'"),
        (lambda d: d.update(seed=-1), "seed"),
        (lambda d: d.pop("deployment"), "deployment"),
        (lambda d: d["goodput"].update(rate_rps="fast"), r"goodput\.rate_rps"),
        (lambda d: d["deployment"].update(replicas=[]), "at least one replica"),
        (lambda d: d["deployment"].update(routes=[]), "a KV route a pair"),
        (lambda d: d["problem"]["search"].update(max_gpus=1), "at most 1 GPUs"),
    ],
)
def test_a_tampered_plan_is_refused_in_one_line(tampered, change, message):
    with pytest.raises(InputError, match=message) as error:
        read_plan(tampered(change))
    assert "\n" not in str(error.value)


def test_a_missing_plan_is_named(tmp_path):
    with pytest.raises(InputError, match="absent"):
        read_plan(tmp_path / "absent.json")


def test_inputs_are_named_without_their_folder(tmp_path):
    path = tmp_path / "problem.yaml"
    path.write_bytes(b"")
    # SHA-256 of nothing.
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert input_hashes([path]) == (("problem.yaml", empty),)
