"""Fleets: rates behind adapters, links in tokens, what counts as uniform."""

import numpy as np
import pytest

from clusters.fields import InputError
from planner.pipelines.fleet import COORDINATOR, Fleet, MachineKind
from tests.planner.pipelines.tiny_fleets import tiny_fleet

A = ("a", (10.0, 4.0))
B = ("b", (6.0,))


def test_a_link_carries_fewer_tokens_with_activations_than_without():
    # A token is 1 byte from the coordinator, 2 bytes from machine to machine.
    fleet = tiny_fleet([A, B], 3, links={(0, 1): 100.0, (COORDINATOR, 0): 100.0})
    assert fleet.link_tokens_per_s(0, 1) == 50.0
    assert fleet.link_tokens_per_s(COORDINATOR, 0) == 100.0


def test_the_adapter_caps_the_rate_of_a_machine():
    fleet = tiny_fleet([A], 2)
    kind = MachineKind(name="a", tokens_per_s=(10.0, 4.0), nic_bytes_per_s=12.0)
    capped = Fleet(
        kinds=(kind,),
        num_layers=2,
        token_bytes=1.0,
        activation_bytes=1.0,
        coordinator_bytes_per_s=1.0,
        link_bytes_per_s=fleet.link_bytes_per_s,
        link_latency_ms=fleet.link_latency_ms,
    )
    assert [capped.machine_tokens_per_s(0, held) for held in (1, 2)] == [6.0, 4.0]


def test_a_machine_passes_nothing_with_more_layers_than_it_holds():
    assert tiny_fleet([B], 3).machine_tokens_per_s(0, 2) == 0.0


def test_equal_links_make_a_uniform_fleet_and_one_other_link_does_not():
    assert tiny_fleet([A, B], 3).is_uniform
    assert not tiny_fleet([A, B], 3, links={(0, 1): 5.0}).is_uniform


def test_machines_are_found_by_kind():
    fleet = tiny_fleet([A, B, A], 3)
    assert fleet.kind_names == ("a", "b")
    assert fleet.of_kind("a") == (0, 2)


@pytest.mark.parametrize("rates", [(), (1.0, 0.0), (1.0, float("nan"))])
def test_rates_must_be_positive_numbers(rates):
    with pytest.raises(InputError, match="tokens_per_s"):
        MachineKind(name="a", tokens_per_s=rates, nic_bytes_per_s=1.0)


def test_links_need_a_row_for_each_machine_and_the_coordinator():
    with pytest.raises(InputError, match="link_bytes_per_s"):
        Fleet(
            kinds=(MachineKind(name="a", tokens_per_s=(1.0,), nic_bytes_per_s=1.0),),
            num_layers=1,
            token_bytes=1.0,
            activation_bytes=0.0,
            coordinator_bytes_per_s=1.0,
            link_bytes_per_s=np.ones((1, 1)),
            link_latency_ms=np.zeros((2, 2)),
        )
