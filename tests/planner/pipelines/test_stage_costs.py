"""Stage costs: tables of whole pipelines between the knots, KV room at each number."""

import pytest

from clusters.gpu import GpuType
from clusters.links import GroupLink, GroupLinks
from models.latency.library import LatencyLibrary, LatencyRequest
from models.llm import LlmSpec
from models.memory import MemorySettings, memory_of
from models.parallelism import Parallelism
from planner.pipelines.stage_costs import Place, StageCatalog, StageKind, knots_of

LLM = LlmSpec.load("opt-13b")
L4 = GpuType.load("l4")
RING = GroupLink(bytes_per_s=1e10, latency_ms=0.01)
KIND = StageKind(gpu=L4, tp=2, ring=RING)
LIBRARY = LatencyLibrary.default().with_sources("roofline")


def catalog() -> StageCatalog:
    return StageCatalog(llm=LLM, library=LIBRARY, memory=MemorySettings())


@pytest.mark.parametrize(("place", "stage"), [(Place.FIRST, 0), (Place.LAST, 1)])
def test_times_between_knots_are_those_of_whole_pipelines(place, stage):
    costs = catalog().costs(KIND, place)
    assert costs is not None
    held = 11  # no knot
    assert held not in costs.knots
    layers = (held, 29) if stage == 0 else (29, held)
    hop = GroupLink(bytes_per_s=1e15, latency_ms=0.0)
    request = LatencyRequest(
        llm=LLM,
        parallelism=Parallelism(tp=2, pp=2, stage_layers=layers),
        gpu=L4,
        links=GroupLinks(tp=(RING, RING), pp=(hop,)),
    )
    table = LIBRARY.choose(request).stages[stage]
    exact = table.decode_step_ms(8, 8 * 500)
    assert costs.decode_ms(8, 500)[held - 1] == pytest.approx(exact, rel=0.02)
    exact = table.prefill_step_ms([500])
    assert costs.prefill_ms(500)[held - 1] == pytest.approx(exact, rel=0.02)


def test_room_is_that_of_the_memory_model_for_every_number_of_layers():
    costs = catalog().costs(KIND, Place.FIRST)
    assert costs is not None
    for held in (20, 25):
        split = Parallelism(tp=2, pp=2, stage_layers=(held, 40 - held))
        whole = memory_of(LLM, split, (L4, GpuType.load("h200_sxm")))
        assert whole.stage == 0
        assert costs.kv_tokens[held - 1] == whole.max_kv_tokens
    assert list(costs.kv_tokens) == sorted(costs.kv_tokens, reverse=True)


def test_the_last_stage_has_the_head_beside_its_layers():
    known = catalog()
    last, middle = (known.costs(KIND, p) for p in (Place.LAST, Place.MIDDLE))
    assert last is not None
    assert middle is not None
    assert last.kv_tokens[9] < middle.kv_tokens[9]
    assert last.decode_ms(8, 500)[9] > middle.decode_ms(8, 500)[9]


def test_a_gpu_that_holds_not_a_layer_has_no_costs():
    whole = MemorySettings(runtime_reserve_bytes=L4.memory_bytes)
    known = StageCatalog(llm=LLM, library=LIBRARY, memory=whole)
    assert known.costs(KIND, Place.MIDDLE) is None


def test_knots_are_powers_of_four_and_the_end():
    assert knots_of(1) == (1,)
    assert knots_of(4) == (1, 4)
    assert knots_of(23) == (1, 4, 16, 23)
