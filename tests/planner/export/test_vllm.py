"""The vLLM bundle: golden files, and what must hold of any of them."""

import json
import shutil
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.export.fingerprint import plan_sha256
from planner.export.vllm import export_vllm
from planner.plan import Plan
from planner.simulator.system import Phase
from tests.planner.export.conftest import Run
from tests.planner.export.plans import (
    PLANS,
    aggregated,
    one_node,
    pipeline,
    plan_of,
    problem_of,
    two_nodes,
    two_slices,
)

GOLDEN = Path(__file__).parent / "golden"


def value_of(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def values_of(argv: list[str], flag: str) -> list[str]:
    return [value for name, value in pairwise(argv) if name == flag]


# --- Golden files, and an invariant beside each ---------------------------------------


@pytest.mark.parametrize("name", PLANS)
def test_files_are_those_on_record(name: str, updates_golden: bool) -> None:
    folder = GOLDEN / name
    plan = PLANS[name]()
    # The hash would change with every field that plans get.
    files = {
        file: text.replace(plan_sha256(plan), "<sha256>")
        for file, text in export_vllm(plan).items()
    }
    if updates_golden:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
    recorded = {path.name: path.read_text("utf-8") for path in folder.iterdir()}
    assert files == recorded


@pytest.mark.parametrize("name", PLANS)
def test_every_gpu_of_the_plan_is_visible_to_exactly_one_script(
    name: str, run_script: Run
) -> None:
    plan = PLANS[name]()
    files = export_vllm(plan)
    seen = []
    for script in launch_scripts(files):
        _, environment = run_script(files, script)
        node = next(iter(files[script].splitlines()[1].split(" on ")[1].split(",")))
        gpus = environment["CUDA_VISIBLE_DEVICES"].split(",")
        seen += [f"{node}/gpu{gpu}" for gpu in gpus]
    topology = plan.problem.cluster.topology
    used = [topology.gpu(index).name for index in plan.deployment.gpu_indices]
    assert sorted(seen) == sorted(used)


_GATEWAYS = ("route", "split")


def launch_scripts(files: dict[str, str]) -> list[str]:
    return [
        name for name in files if name.endswith(".sh") and name[:5] not in _GATEWAYS
    ]


@pytest.mark.parametrize("name", PLANS)
def test_every_file_names_the_plan(name: str) -> None:
    plan = PLANS[name]()
    assert all(plan_sha256(plan) in text for text in export_vllm(plan).values())


@pytest.mark.parametrize("name", PLANS)
def test_bash_finds_no_syntax_error(name: str, tmp_path: Path) -> None:
    paths = written(export_vllm(PLANS[name]()), tmp_path)
    for path in paths:
        subprocess.run(["bash", "-n", str(path)], check=True, timeout=20)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck here")
@pytest.mark.parametrize("name", PLANS)
def test_shellcheck_finds_nothing(name: str, tmp_path: Path) -> None:
    paths = written(export_vllm(PLANS[name]()), tmp_path)
    command = ["shellcheck", "-x", "-P", "SCRIPTDIR", *map(str, paths)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


def written(files: dict[str, str], folder: Path) -> list[Path]:
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files if not name.endswith(".md")]


# --- What the engines are told --------------------------------------------------------


def test_an_engine_gets_the_flags_of_its_replica(run_script: Run) -> None:
    argv, environment = run_script(export_vllm(one_node()), "prefill-0.sh")
    assert argv[:2] == ["serve", "facebook/opt-13b"]
    expected = {
        "--tensor-parallel-size": "2",
        "--pipeline-parallel-size": "1",
        "--block-size": "16",
        "--max-num-batched-tokens": "8192",
        "--max-num-seqs": "256",
        "--gpu-memory-utilization": "0.9",
        "--max-model-len": "2048",
        "--port": "8100",
    }
    assert {flag: value_of(argv, flag) for flag in expected} == expected
    config = json.loads(value_of(argv, "--kv-transfer-config"))
    assert config["kv_role"] == "kv_producer"
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert environment["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "node0"


def test_aggregated_engines_transfer_no_kv(run_script: Run) -> None:
    files = export_vllm(aggregated())
    argv, environment = run_script(files, "aggregated-1.sh")
    assert "--kv-transfer-config" not in argv
    assert not [name for name in environment if "NIXL" in name]


def test_the_nodes_of_a_replica_meet_at_the_first(run_script: Run) -> None:
    files = export_vllm(pipeline())
    head, _ = run_script(files, "prefill-0-rank-0.sh")
    second, environment = run_script(files, "prefill-0-rank-1.sh")
    for argv in (head, second):
        assert value_of(argv, "--nnodes") == "2"
        assert value_of(argv, "--master-addr") == "node0"
    assert value_of(head, "--master-port") == value_of(second, "--master-port")
    assert [value_of(argv, "--node-rank") for argv in (head, second)] == ["0", "1"]
    assert "--headless" in second
    assert "--headless" not in head
    # 80 layers in two stages.
    assert environment["VLLM_PP_LAYER_PARTITION"] == "40,40"


def test_a_router_knows_every_replica_of_its_phase(run_script: Run) -> None:
    argv, _ = run_script(export_vllm(two_nodes()), "router.sh")
    assert "--vllm-pd-disaggregation" in argv
    assert values_of(argv, "--prefill") == ["http://node0:8100", "http://node0:8101"]
    assert values_of(argv, "--decode") == ["http://node1:8100", "http://node1:8101"]


def test_aggregated_replicas_are_routed_plainly(run_script: Run) -> None:
    argv, _ = run_script(export_vllm(aggregated()), "router.sh")
    assert argv[:3] == ["--worker-urls", "http://node0:8100", "http://node0:8101"]
    assert "--vllm-pd-disaggregation" not in argv


def test_each_slice_has_a_router_of_its_own(run_script: Run) -> None:
    files = export_vllm(two_slices())
    first, _ = run_script(files, "router-0.sh")
    second, _ = run_script(files, "router-1.sh")
    # prefill-0 pairs with decode-0, prefill-1 with decode-1; one node, so ports differ.
    assert values_of(first, "--prefill") == ["http://node0:8100"]
    assert values_of(first, "--decode") == ["http://node0:8102"]
    assert values_of(second, "--prefill") == ["http://node0:8101"]
    assert values_of(second, "--decode") == ["http://node0:8103"]
    assert value_of(first, "--port") != value_of(second, "--port")


# --- Names that would like to be commands ---------------------------------------------

names = st.one_of(
    st.sampled_from(
        ["$(touch pwned)", "`touch pwned`", "a'b", 'a"b', "a\ntouch pwned", "x; ls #"]
    ),
    st.text(
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1
    ),
)


def named(model: str, node: str, replica: str) -> Plan:
    """`one_node` with other names."""
    plan = one_node()
    service = plan.problem.service
    llm = replace(service.llm, name=model)
    (only,) = plan.problem.cluster.nodes
    cluster = replace(plan.problem.cluster, nodes=(replace(only, name=node),))
    services = (replace(service, llm=llm),)
    problem = replace(plan.problem, cluster=cluster, services=services)
    prefill, decode = plan.deployment.replicas
    replicas = (replace(prefill, name=replica), decode)
    routes = tuple(replace(r, source=replica) for r in plan.deployment.routes)
    deployment = replace(plan.deployment, replicas=replicas, routes=routes)
    return replace(plan, problem=problem, deployment=deployment, verdict=replica)


@settings(max_examples=30, deadline=None)
@given(model=names, node=names, replica=names)
def test_no_name_can_inject_a_command(
    run_script: Run, model: str, node: str, replica: str
) -> None:
    plain = {"model": "m", "node": "n", "replica": "r"}
    hostile = export_vllm(named(model, node, replica))
    harmless = export_vllm(named(**plain))
    assert list(hostile) == list(harmless)
    for script in ("prefill-0.sh", "decode-0.sh", "router.sh"):
        argv, environment = run_script(hostile, script)
        expected, _ = run_script(harmless, script)
        replaced = {"m": model, "http://n:8100": f"http://{node}:8100"}
        replaced["http://n:8101"] = f"http://{node}:8101"
        assert argv == [replaced.get(word, word) for word in expected]
        if script != "router.sh":
            assert environment["VLLM_NIXL_SIDE_CHANNEL_HOST"] == node


def test_the_guide_lists_every_script_and_caveat() -> None:
    plan = plan_of(
        problem_of("a100_1x4"),
        [
            (Phase.PREFILL, "a100_sxm", ((0,),)),
            (Phase.DECODE, "a100_sxm", ((1,), (2,))),
        ],
    )
    files = export_vllm(replace(plan, warnings=("mind the gap",)))
    guide = files["README.md"]
    scripts = [name for name in files if name.endswith(".sh")]
    assert [name for name in scripts if f"| `{name}` |" not in guide] == []
    assert "decode-0 will not start" in guide
    assert "mind the gap" in guide
    assert "UCX_PROTO_INFO" in guide
