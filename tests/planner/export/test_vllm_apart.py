"""Several services with phases apart: files of each, and ports of all."""

from types import SimpleNamespace
from typing import Any

from planner.export.vllm_apart import instances_by_service
from planner.multiplexing.apart_run import deployment_of
from planner.multiplexing.solve import SharingMethod, place_services
from planner.slo import Slo
from tests.planner.multiplexing.tiny_shared import book_of, tiny_shared
from tests.planner.tiny_problems import TINY_LIBRARY, tiny_cluster


def test_replicas_of_two_services_have_no_port_in_common() -> None:
    # Four GPUs on one node: a prefill-only and a decode-only unit of each service.
    problem = tiny_shared(
        8.0, 4.0, slo=Slo(ttft_ms=200.0, tpot_ms=30.0), cluster=tiny_cluster(1, 4)
    )
    method = SharingMethod.DISAGGREGATED
    placed = place_services(problem, TINY_LIBRARY, method=method).placed
    book = book_of(problem)
    plan: Any = SimpleNamespace(problem=problem)
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
