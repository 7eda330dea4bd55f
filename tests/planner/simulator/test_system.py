"""Systems that make no sense are refused, with the field and the reason."""

import pytest

from clusters.fields import InputError
from planner.simulator.system import KvRoute, Phase, ServingReplica
from tests.planner.simulator.systems import tiny_replica, tiny_system, tiny_table

PREFILL = tiny_replica(Phase.PREFILL, tiny_table())
DECODE = tiny_replica(Phase.DECODE, tiny_table())


def route(source: int, target: int) -> KvRoute:
    return KvRoute(source=source, target=target, latency_ms=0.0, ms_per_byte=0.0)


def test_every_prefill_replica_needs_a_route_to_every_decode_replica():
    with pytest.raises(InputError, match="0->2 missing"):
        tiny_system(PREFILL, DECODE, DECODE, routes=(route(0, 1),))


@pytest.mark.parametrize(("source", "target"), [(0, 3), (3, 1), (1, 0), (0, 0)])
def test_a_route_goes_from_a_prefill_to_a_decode_replica(source, target):
    with pytest.raises(InputError, match=rf"routes\[1\].*{source}->{target}"):
        tiny_system(PREFILL, DECODE, routes=(route(0, 1), route(source, target)))


def test_a_pair_has_one_route():
    with pytest.raises(InputError, match=r"routes\[1\].*0->1"):
        tiny_system(PREFILL, DECODE, routes=(route(0, 1), route(0, 1)))


def test_a_slice_that_prefills_also_decodes():
    other = tiny_replica(Phase.PREFILL, tiny_table(), slice=1)
    with pytest.raises(InputError, match=r"replicas\[1\]\.slice"):
        tiny_system(PREFILL, other, DECODE)


def test_aggregated_replicas_do_not_mix_with_others():
    both = tiny_replica(Phase.AGGREGATED, tiny_table())
    with pytest.raises(InputError, match="'aggregated' or 'prefill' and 'decode'"):
        tiny_system(both, PREFILL)


def test_a_replica_has_a_stage_and_a_system_a_replica():
    with pytest.raises(InputError, match="at least one pipeline stage"):
        ServingReplica(phase=Phase.AGGREGATED, stages=(), kv_capacity_tokens=16)
    with pytest.raises(InputError, match="at least one replica"):
        tiny_system()
