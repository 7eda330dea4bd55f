"""Several services with phases apart: files of each, and ports of all."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from planner.export.vllm_apart import instances_by_service
from planner.export.vllm_shared import export_shared
from planner.multiplexing.apart_run import deployment_of
from planner.multiplexing.shared_plan import plan_services
from planner.multiplexing.solve import SharingMethod, place_services
from planner.multiplexing.space import UnitSpace
from planner.simulator.system import Phase
from planner.slo import Slo
from tests.planner.multiplexing.tiny_shared import SMALL_SPACE, book_of, tiny_shared
from tests.planner.tiny_problems import TINY_LIBRARY, tiny_cluster


def test_replicas_of_two_services_have_no_port_in_common() -> None:
    # Four GPUs on one node: a prefill-only and a decode-only unit of each service.
    problem = tiny_shared(
        8.0,
        4.0,
        slo=Slo(ttft_ms=200.0, tpot_ms=30.0),
        cluster=tiny_cluster(1, 4),
        search=UnitSpace(max_llms=1),
    )
    method = SharingMethod.DISAGGREGATED
    placed = place_services(problem, TINY_LIBRARY, method=method).placed
    book = book_of(problem)
    plan: Any = SimpleNamespace(problem=problem, placed=placed)
    plans: Any = {
        name: SimpleNamespace(deployment=deployment_of(book, placed, name))
        for name in ("a", "b")
    }
    found = instances_by_service(plan, plans)
    for name, own in found.items():
        replicas = plans[name].deployment.replicas
        assert [each.replica for each in own] == list(replicas)
        assert [each.replica.name for each in own] == ["prefill-0", "decode-0"]
    ports = [each.http_port for own in found.values() for each in own]
    assert sorted(ports) == [8100, 8101, 8102, 8103]
    gpus = [each.parts[0].local_gpus for own in found.values() for each in own]
    assert sorted(gpus) == [(0,), (1,), (2,), (3,)]


def test_engines_on_shared_one_phase_units_get_their_part_of_the_gpu() -> None:
    problem = tiny_shared(
        10.0,
        6.0,
        slo=Slo(ttft_ms=60.0, tpot_ms=30.0),
        cluster=tiny_cluster(2, 1),
        search=replace(SMALL_SPACE, shares_time=False),
    )
    plan = plan_services(problem, TINY_LIBRARY, method="disaggregated")
    files = export_shared(plan)
    decode = next(u.unit for u in plan.placed.units if u.unit.phase is Phase.DECODE)
    assert [member.service for member in decode.members] == ["a", "b"]
    block = problem.engine.memory.block_tokens
    for number, member in enumerate(decode.members):
        prefill = files[f"apart-{number}/prefill-{number}.sh"]
        assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=100" in prefill
        script = files[f"apart-{number}/decode-{number}.sh"]
        share = round(100 * member.decode_share_frac)
        assert f"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE={share}" in script
        blocks = member.kv_quota_tokens // block
        assert f"--num-gpu-blocks-override {blocks}" in script
    used = [
        float(files[f"apart-{i}/decode-{i}.sh"].split("utilization ")[1].split()[0])
        for i in range(2)
    ]
    assert sum(used) <= 1.0
    assert "start-mps.sh" in files
    assert "routers compare the loads" in files["README.md"]
