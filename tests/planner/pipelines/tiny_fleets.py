"""Fleets by hand: rates by layers as given, links that do not bind unless said so."""

from collections.abc import Mapping, Sequence

import numpy as np

from models.latency.step_table import StepTable
from planner.pipelines.costs import CostedFleet, MachineCosts
from planner.pipelines.fleet import Fleet, MachineKind
from planner.workload.requests import Requests

FAST = 1e12


def tiny_fleet(
    rates: Sequence[tuple[str, Sequence[float]]],
    num_layers: int,
    *,
    links: Mapping[tuple[int, int], float] | None = None,
    latency_ms: float = 0.0,
) -> Fleet:
    """Machines as (kind, tokens/s by layers); a token is 1 byte, with activations 2.

    `links` changes rates in bytes/s; machine -1 is the coordinator.
    """
    kinds = {
        name: MachineKind(name=name, tokens_per_s=tuple(own), nic_bytes_per_s=FAST)
        for name, own in rates
    }
    side = len(rates) + 1
    link_bytes_per_s = np.full((side, side), FAST)
    for (source, target), rate in (links or {}).items():
        link_bytes_per_s[source, target] = rate
    return Fleet(
        kinds=tuple(kinds[name] for name, _ in rates),
        num_layers=num_layers,
        token_bytes=1.0,
        activation_bytes=1.0,
        coordinator_bytes_per_s=FAST,
        link_bytes_per_s=link_bytes_per_s,
        link_latency_ms=np.full((side, side), latency_ms),
    )


def flat_step(prefill_ms: float, decode_ms: float) -> StepTable:
    """A step takes the same time whatever is in it."""
    return StepTable(
        prefill_tokens=(0.0, 1.0),
        prefill_ms=(prefill_ms, prefill_ms),
        decode_batch=(0.0, 1.0),
        decode_ms=(decode_ms, decode_ms),
        decode_per_kv_token_ms=(0.0, 0.0),
    )


def flat_costs(
    fleet: Fleet, *, prefill_ms: float, decode_ms: float, kv_tokens: int
) -> CostedFleet:
    """Every layer takes `prefill_ms` or `decode_ms`; all have room for `kv_tokens`."""
    costs = {
        name: MachineCosts(
            steps=tuple(
                flat_step(prefill_ms * held, decode_ms * held)
                for held in range(1, fleet.kind(name).max_layers + 1)
            ),
            kv_tokens=(kv_tokens,) * fleet.kind(name).max_layers,
        )
        for name in fleet.kind_names
    }
    return CostedFleet(fleet=fleet, costs=costs)


def equal_requests(input_tokens: int, output_tokens: int, num: int = 4) -> Requests:
    """Requests of one length."""
    return Requests(
        arrival_ms=np.zeros(num),
        input_tokens=np.full(num, input_tokens, dtype=np.int64),
        output_tokens=np.full(num, output_tokens, dtype=np.int64),
    )
