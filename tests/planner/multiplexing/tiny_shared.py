"""Tiny shared problems: the tiny model several times, on GPUs with round numbers."""

from models.latency.contention import SmSharing
from models.memory import MemorySettings
from planner.multiplexing.llm_costs import CostBook
from planner.multiplexing.meshes import MeshSupply
from planner.multiplexing.problem import SharedProblem
from planner.multiplexing.space import UnitSpace
from planner.multiplexing.unit_model import UnitModel
from planner.problem import EngineSettings, Service
from planner.slo import Slo
from planner.workload.workload import Workload
from tests.models.conftest import TINY
from tests.planner.tiny_problems import TINY_LIBRARY, tiny_cluster

LOOSE = Slo(ttft_ms=2000.0, tpot_ms=100.0)
"""Limits that only a full GPU misses."""
SMALL_SPACE = UnitSpace(
    sm_shares=(0.3, 0.4),
    prefills=((0.5, 1),),
    stretches=(1.0, 2.0),
    cycles=(0.5,),
    parts=(1.0, 0.5),
)


def tiny_shared(*rates_rps: float, slo: Slo = LOOSE, gpus: int = 2, **changes):
    """An LLM a, b, ... of 100 tokens in and 11 out for each rate."""
    services = tuple(
        Service(
            name=chr(ord("a") + index),
            llm=TINY,
            workload=Workload.poisson(rate_rps=rate, lengths="100x11"),
            slo=slo,
        )
        for index, rate in enumerate(rates_rps)
    )
    given = {
        "cluster": tiny_cluster(1, gpus),
        "services": services,
        "engine": EngineSettings(
            memory=MemorySettings(runtime_reserve_bytes=0.0, max_batch_tokens=64)
        ),
        **changes,
    }
    return SharedProblem(**given)


def book_of(
    problem: SharedProblem, space: UnitSpace = SMALL_SPACE, *, prompts=(1,)
) -> CostBook:
    return CostBook(
        problem,
        TINY_LIBRARY,
        sharing=SmSharing.published(),
        shares=(*space.sm_shares, 1.0),
        prompts=prompts,
    )


def model_of(problem: SharedProblem, space: UnitSpace = SMALL_SPACE) -> UnitModel:
    supply = MeshSupply.of(problem.cluster)
    return UnitModel(book_of(problem, space), supply, space)
