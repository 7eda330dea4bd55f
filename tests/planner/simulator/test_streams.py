"""Layer-wise KV transfers, by hand."""

import math

import pytest

from planner.simulator.simulate import simulate
from planner.simulator.system import EdgeShare, KvRoute, Phase
from planner.simulator.transfer_settings import KvTransfer, TransferMode
from tests.planner.simulator.systems import (
    tiny_replica,
    tiny_requests,
    tiny_system,
    tiny_table,
)

LAYER_WISE = KvTransfer(mode=TransferMode.LAYER_WISE, layer_wise_ms=0.5)
PREFILL = tiny_replica(Phase.PREFILL, tiny_table(prefill_ms=8.0))
DECODE = tiny_replica(Phase.DECODE, tiny_table(decode_ms=1.0))


def route(ms_per_byte: float, *edges: EdgeShare) -> KvRoute:
    return KvRoute(
        source=0, target=1, latency_ms=0.25, ms_per_byte=ms_per_byte, edges=edges
    )


def serve(*rows, ms_per_byte=0.5, kv_transfer=LAYER_WISE, decode=DECODE, edges=()):
    """Prefill in 8 ms, four layers, one byte of KV a token."""
    system = tiny_system(
        PREFILL,
        decode,
        routes=(route(ms_per_byte, *edges),),
        kv_transfer=kv_transfer,
        num_layers=4,
    )
    return simulate(system, tiny_requests(*rows))


def test_after_the_prefill_only_the_last_layer_is_left():
    # 4 bytes: 2 ms in all, 0.5 ms a layer; 8 + 0.5 + the fixed 0.25 + 0.5.
    result = serve((0.0, 4, 2))
    assert result.transfer_start_ms.tolist() == [0.0]
    assert result.decode_ready_ms.tolist() == [9.25]


def test_a_transfer_slower_than_the_prefill_starts_with_the_first_layer():
    # 40 bytes: 20 ms; the first layer is there at 2, the rest waits for the link.
    assert serve((0.0, 40, 2)).decode_ready_ms.tolist() == [2.0 + 20.0 + 0.75]


def test_short_prompts_are_serialized_and_long_ones_are_not():
    by_size = KvTransfer(mode=TransferMode.BY_SIZE, layer_wise_above_tokens=4)
    result = serve((0.0, 4, 2), (100.0, 5, 2), kv_transfer=by_size)
    # 8 + 2 + 0.25, without the fixed time of a layer-wise transfer; then 5 ms of it.
    assert result.decode_ready_ms.tolist() == [10.25, 108.0 + 2.5 / 4 + 0.25 + 5.0]
    assert result.transfer_start_ms.tolist() == [8.0, 100.0]


def test_a_target_without_room_pulls_when_the_prefill_is_over():
    """One place: the second request is admitted when the first has left, at 12.25.

    Both are prefilled at 8; the first is there at 8 + 0.5 + 0.75 = 9.25 and decodes
    three tokens. The second is then sent as a whole, 2 + 0.25, as if serialized.
    """
    decode = tiny_replica(Phase.DECODE, tiny_table(decode_ms=1.0), max_num_seqs=1)
    result = serve((0.0, 4, 4), (0.0, 4, 2), decode=decode)
    assert result.finish_ms[0] == 12.25
    assert result.transfer_start_ms.tolist() == [0.0, 12.25]
    assert result.decode_ready_ms[1] == 12.25 + 2.25


def test_room_during_the_prefill_sends_the_layers_that_are_there_at_once():
    """The second is prefilled from 8 to 16 and admitted at 12.25.

    Four layers of 5 ms each on a link free since 12.25: layers 1 and 2 are there, so
    the link never waits, and all is sent at 12.25 + 20.
    """
    decode = tiny_replica(Phase.DECODE, tiny_table(decode_ms=1.0), max_num_seqs=1)
    result = serve((0.0, 4, 4), (0.5, 40, 2), decode=decode)
    assert result.prefill_start_ms.tolist() == [0.0, 8.0]
    assert result.transfer_start_ms.tolist() == [0.0, 12.25]
    assert result.decode_ready_ms[1] == 12.25 + 20.0 + 0.75


def test_transfers_take_turns_on_a_link():
    # Both are prefilled from 0 to 8 and take the link for 20 ms each, the first from
    # its first layer on, the second when the booking of the first, 20 ms, is over.
    edges = (EdgeShare(edge="nic", ms_per_byte=0.5),)
    result = serve((0.0, 40, 2), (0.0, 40, 2), edges=edges)
    assert result.decode_ready_ms.tolist() == [22.75, 20.0 + 20.0 + 0.75]


def test_a_single_token_needs_no_transfer_and_gives_its_room_back():
    """The controller cannot know that the first token is the last: it makes room.

    The second and the third share a prefill and the only place; the third has it at 16,
    when the second turns out to need none, and is sent as a whole, 2 + 0.25.
    """
    decode = tiny_replica(Phase.DECODE, tiny_table(decode_ms=1.0), max_num_seqs=1)
    result = serve((0.0, 4, 1), (0.5, 4, 1), (1.0, 4, 3), decode=decode)
    assert result.finish_ms.tolist() == [8.0, 16.0, 16.0 + 2.25 + 2.0]
    assert math.isnan(result.transfer_start_ms[0])


def test_what_can_never_decode_is_refused_after_its_prefill():
    decode = tiny_replica(Phase.DECODE, tiny_table(), kv_capacity_tokens=8)
    result = serve((0.0, 4, 4), (0.0, 6, 3), decode=decode)
    assert result.is_rejected.tolist() == [False, True]
    assert result.first_token_ms.tolist() == [8.0, 8.0]


@pytest.mark.parametrize("mode", list(TransferMode))
def test_blocks_of_the_prompt_cost_the_connector_time(mode):
    """Blocks of 16 tokens: 40 tokens are three, at 1 ms each."""
    prefill = tiny_replica(
        Phase.PREFILL, tiny_table(prefill_ms=8.0), kv_block_tokens=16
    )
    settings = KvTransfer(mode=mode, block_ms=1.0, layer_wise_ms=0.0)
    system = tiny_system(
        prefill, DECODE, routes=(route(0.0),), kv_transfer=settings, num_layers=4
    )
    result = simulate(system, tiny_requests((0.0, 40, 2)))
    serialized = settings.least_layer_wise_tokens in (None, 513)
    assert result.transfer_ms.tolist() == [(3.0 if serialized else 0.75) + 0.25]
