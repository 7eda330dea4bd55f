"""Which fabric stands for a ring: kind and rate of the links, phase of the step."""

import numpy as np
import pytest

from clusters.links import GroupLink, LinkKind
from models.latency.fabrics import fabric_for, fabric_of, fabrics_of
from models.latency.fit_file import load_fit, shipped_systems
from models.latency.operators.collective import (
    Collective,
    CollectiveModel,
    ideal_collective_ms,
)

NVLINK_H200 = GroupLink(bytes_per_s=450e9, latency_ms=0.002, kind=LinkKind.NVLINK)
NETWORK = GroupLink(bytes_per_s=50e9, latency_ms=0.005, kind=LinkKind.NETWORK)
MEGABYTES = np.asarray([1e6, 8e6, 64e6, 256e6])


def of(op: Collective, ring: GroupLink, *, low_latency: bool = False) -> str:
    """Name of the fabric that stands for `ring` on H200 with SGLang."""
    model = fabric_of(op, ring, "sglang", "h200_sxm", low_latency=low_latency)
    assert model is not None
    return model.fabric


@pytest.mark.parametrize(
    ("rate", "kind", "name"),
    [
        (450e9, LinkKind.NVLINK, "h200_sxm"),
        (300e9, LinkKind.NVLINK, "a100_sxm"),
        (60e9, LinkKind.PCIE, "rtx_pro_6000_server"),
        (3e9, LinkKind.PCIE, "l40s"),
    ],
)
def test_the_nearest_rate_of_the_same_kind_is_the_fabric(
    rate: float, kind: LinkKind, name: str
) -> None:
    measured = {
        system: model
        for system in shipped_systems("vllm")
        for model in load_fit(system, "vllm").variants("all_reduce").values()
        if isinstance(model, CollectiveModel)
    }
    link = GroupLink(bytes_per_s=rate, latency_ms=0.0, kind=kind)
    found = fabric_for(link, measured, "h200_sxm")
    assert found is not None
    assert found.fabric == name
    network = GroupLink(bytes_per_s=rate, latency_ms=0.0, kind=LinkKind.NETWORK)
    assert fabric_for(network, measured, "h200_sxm") is None


def test_a_ring_between_nodes_takes_what_was_measured_between_nodes() -> None:
    assert of(Collective.ALL_REDUCE, NETWORK) == "a100_sxm_network"
    assert of(Collective.EXPERT_DISPATCH, NETWORK) == "h100_sxm_network"
    # Of the others nobody measured that.
    assert fabric_of(Collective.ALL_GATHER, NETWORK, "sglang", "h200_sxm") is None


def test_decode_takes_the_kernels_of_low_latency() -> None:
    prefill = fabrics_of(NVLINK_H200, "sglang", "h200_sxm")
    decode = fabrics_of(NVLINK_H200, "sglang", "h200_sxm", decode=True)
    assert set(prefill) == set(decode) == set(Collective)
    same = {op for op in Collective if prefill[op] == decode[op]}
    assert set(Collective) - same == {
        Collective.EXPERT_DISPATCH,
        Collective.EXPERT_COMBINE,
    }
    # 16 tokens of 7168 in 16 bits to 8 experts: launches count, not bytes.
    few = np.asarray([16 * 8 * 7168 * 2.0])
    for op in (Collective.EXPERT_DISPATCH, Collective.EXPERT_COMBINE):
        times = [
            float(found[op].ms(few, num_gpus=8, bytes_per_s=450e9)[0])
            for found in (prefill, decode)
        ]
        assert times[1] < times[0]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_collectives_are_slower_than_their_bytes_and_rise_with_them(
    engine: str,
) -> None:
    # An all-reduce may beat the ring: NVSwitch adds up on the way.
    plain = set(Collective) - {Collective.ALL_REDUCE}
    for op, model in fabrics_of(NVLINK_H200, engine, "h200_sxm").items():
        time = model.ms(MEGABYTES, num_gpus=8, bytes_per_s=450e9)
        assert (np.diff(time) >= 0).all()
        assert time[-1] > time[0]
        if op in plain:
            ideal = ideal_collective_ms(op, MEGABYTES, 8.0, 450e9, 0.0)
            assert (time > ideal).all(), op


def test_a_faster_link_of_the_same_kind_is_faster() -> None:
    model = fabric_of(Collective.ALL_REDUCE, NETWORK, "vllm", "h200_sxm")
    assert model is not None
    slow = model.ms(MEGABYTES, num_gpus=16, bytes_per_s=12.5e9)
    fast = model.ms(MEGABYTES, num_gpus=16, bytes_per_s=50e9)
    assert (fast < slow).all()
