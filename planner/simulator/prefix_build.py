"""Arrays of prefix caches, expectations of the router and sessions."""

import numpy as np

from clusters.units import MS_PER_S
from planner.simulator import prefix_state, state
from planner.simulator.prefix_settings import (
    AdmissionRule,
    CacheScope,
    EarlyRejection,
    PrefixCache,
)
from planner.simulator.state import NONE, Array
from planner.simulator.system import Phase, Routing, ServingSystem
from planner.workload.prefix_blocks import PrefixBlocks
from planner.workload.requests import Requests
from planner.workload.turns import FIRST_TURN, Turns

_RULES = {
    AdmissionRule.CURRENT: state.ADMIT_BY_CURRENT,
    AdmissionRule.PREDICTED: state.ADMIT_BY_PREDICTED,
}


def prefix_arrays(
    system: ServingSystem, requests: Requests, replica: Array
) -> dict[str, Array]:
    """The arrays of `World`; empty ones for what this simulation does not have.

    The caches of `replica` are numbered.
    """
    num = len(requests)
    blocks = requests.prefix_blocks
    has_cache = blocks is not None and any(r.prefix_cache for r in system.replicas)
    has_forecast = (
        system.routing is Routing.CACHE_AWARE or system.early_rejection is not None
    )
    forecast = np.zeros(num if has_forecast else 0, dtype=prefix_state.FORECAST)
    forecast["first_token_ms"] = np.nan
    if blocks is None or not has_cache:
        blocks = PrefixBlocks.of(())
    return {
        **_caches(system, blocks, replica),
        "block_id": np.ascontiguousarray(blocks.ids),
        "block_offset": np.ascontiguousarray(blocks.offsets),
        "reuse": np.zeros(num if has_cache else 0, dtype=prefix_state.REUSE),
        "forecast": forecast,
        "early_rejection": _early_rejection(system.early_rejection),
        "decode_start": np.zeros(
            num if system.early_rejection else 0, dtype=prefix_state.DECODE_START
        ),
        "turn": _turns(requests.turns),
    }


def _caches(
    system: ServingSystem, blocks: PrefixBlocks, replica: Array
) -> dict[str, Array]:
    """One cache a replica that has one, or one for all with equal settings."""
    found: list[Array] = []
    shared: dict[PrefixCache, int] = {}
    num_nodes, num_entries = 0, 0
    for index, given in enumerate(system.replicas):
        settings = given.prefix_cache
        if settings is None or given.phase is Phase.DECODE or len(blocks.ids) == 0:
            continue
        if settings in shared:
            replica[index]["cache"] = shared[settings]
            continue
        replica[index]["cache"] = len(found)
        if settings.scope is CacheScope.GLOBAL:
            shared[settings] = len(found)
        if settings.is_leftover and system.routing is Routing.CACHE_AWARE:
            replica[index]["is_stepwise"] = True  # the router looks into its free room
        cache = _cache(settings, blocks, system.kv_bytes_per_token)
        kept = settings.tokens(system.kv_bytes_per_token)
        tokens = given.kv_capacity_tokens if kept is None else kept
        most = min(tokens // int(cache["block_tokens"]), len(blocks.ids))
        cache["capacity_blocks"] = cache["limit"] = most
        cache["first_node"], cache["first_entry"] = num_nodes, num_entries
        size = 1 << (2 * most + 1).bit_length()
        cache["mask"] = size - 1
        num_nodes += most
        num_entries += size
        found.append(cache)
    entry = np.zeros(num_entries, dtype=prefix_state.CACHE_ENTRY)
    entry["node"] = NONE
    return {
        "cache": np.array(found, dtype=prefix_state.CACHE),
        "cache_node": np.zeros(num_nodes, dtype=prefix_state.CACHE_NODE),
        "cache_entry": entry,
    }


def _cache(
    settings: PrefixCache, blocks: PrefixBlocks, kv_bytes_per_token: float
) -> Array:
    cache = np.zeros(1, dtype=prefix_state.CACHE)[0]
    cache["oldest"] = cache["newest"] = cache["free"] = NONE
    cache["block_tokens"] = settings.block_tokens or blocks.block_tokens
    cache["is_leftover"] = settings.is_leftover
    cache["is_global"] = settings.scope is CacheScope.GLOBAL
    cache["keeps_outputs"] = settings.keeps_outputs
    cache["balancing_threshold"] = settings.balancing_threshold
    cache["copies"] = settings.fetch_bytes_per_s is not None
    for name, rate in (
        ("load", settings.load_bytes_per_s),
        ("fetch", settings.fetch_bytes_per_s),
    ):
        if rate is not None:
            cache[f"{name}_ms_per_token"] = kv_bytes_per_token * MS_PER_S / rate
    result: Array = cache
    return result


def _early_rejection(settings: EarlyRejection | None) -> Array:
    array = np.zeros(1, dtype=prefix_state.EARLY_REJECTION)
    array["head"] = NONE
    if settings is not None:
        array["rule"] = _RULES[settings.rule]
        array["ttft_ms"], array["tbt_ms"] = settings.ttft_ms, settings.tbt_ms
        array["decode_ms"] = settings.decode_ms or 0.0
    return array


def _turns(turns: Turns | None) -> Array:
    if turns is None:
        return np.zeros(0, dtype=prefix_state.TURN)
    turn = np.zeros(len(turns), dtype=prefix_state.TURN)
    turn["next"] = NONE
    later = np.flatnonzero(turns.previous != FIRST_TURN)
    turn["next"][turns.previous[later]] = later
    turn["think_ms"] = turns.think_ms
    return turn
