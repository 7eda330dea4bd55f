"""Units: shares that add up, and one line when they do not."""

from dataclasses import replace

import pytest

from clusters.fields import InputError
from planner.multiplexing.meshes import MeshKind
from planner.multiplexing.unit import LlmUnit, UnitMember

MEMBER = UnitMember(
    service="chat",
    served_rps=12.0,
    decode_share_frac=0.3,
    kv_quota_tokens=1600,
    max_num_seqs=10,
    prefill_ms=20.0,
    tpot_ms=15.0,
)
UNIT = LlmUnit(
    mesh=MeshKind(gpu_type="a100_sxm", num_gpus=2),
    members=(MEMBER, replace(MEMBER, service="code", served_rps=3.0)),
    prefill_share_frac=0.4,
)


def test_shares_are_of_the_prefill_and_of_each_decode() -> None:
    assert UNIT.sm_shares_frac == (0.4, 0.3, 0.3)
    assert UNIT.is_shared
    assert UNIT.describe() == (
        "2 x a100_sxm: chat 12/s (30% SMs), code 3/s (30% SMs); prefill 40% SMs"
    )


def test_shares_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(0\.5, 0\.3, 0\.3\).*add up to 1"):
        replace(UNIT, prefill_share_frac=0.5)


def test_in_turns_every_llm_has_all_sms() -> None:
    members = tuple(replace(m, decode_share_frac=1.0) for m in UNIT.members)
    unit = replace(UNIT, members=members, prefill_share_frac=1.0, cycle_ms=50.0)
    assert unit.describe().endswith("chat 12/s, code 3/s; in turns of 50 ms")


def test_a_service_is_in_a_unit_once() -> None:
    with pytest.raises(InputError, match="each service once"):
        replace(UNIT, members=(MEMBER, MEMBER))
    with pytest.raises(InputError, match="at least one LLM"):
        replace(UNIT, members=())
