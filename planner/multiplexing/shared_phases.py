"""LLMs that share prefill-only or decode-only units, from prompt to last token.

The kernel of units serves every phase: prompts on prefill-only units, which end with
their first token, and the rest on decode-only units, which begin when the KV cache is
there. In between, caches of all these services share the links first come, first
served. A cache that waits for room on its decode-only unit is in nobody's quota.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clusters.fields import spec
from clusters.units import MS_PER_S
from planner.kv_paths import KvPaths
from planner.multiplexing import unit_state as state
from planner.multiplexing.dealing import deal, only
from planner.multiplexing.placed import PlacedUnits
from planner.multiplexing.problem import SharedProblem
from planner.multiplexing.unit import LlmUnit
from planner.multiplexing.unit_run import UnitResult
from planner.multiplexing.unit_state import Array
from planner.serving import deciding_edges
from planner.simulator.outcome import SimulationResult
from planner.simulator.system import Phase
from planner.workload.requests import Requests

UnitRun = Callable[[LlmUnit, Mapping[str, Requests]], UnitResult]
"""Serves requests of services on a unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRoute:
    """How KV caches go from one unit to another."""

    fixed_ms: float = spec("Whatever the size.", unit="ms", ge=0)
    ms_per_byte: float = spec("Alone on its links.", unit="ms/byte", ge=0)
    edges: tuple[tuple[int, float], ...] = spec(
        "Its links, and how long a byte of the cache takes each.", unit="ms/byte"
    )


Routes = Mapping[tuple[int, int], UnitRoute]
"""By the indices of the prefill-only and the decode-only unit."""


def unit_routes(
    problem: SharedProblem,
    placed: PlacedUnits,
    services: Sequence[str],
    crowding: Mapping[int, float],
) -> Routes:
    """Routes between the one-phase units of services.

    Parameters
    ----------
    problem
        Cluster and settings of transfers.
    placed
        The units, on GPUs.
    services
        Whose units.
    crowding
        By link how many times slower others make it; 1 where it is not named.
    """
    paths, found = KvPaths.of(problem.cluster), {}
    for name in services:
        own = [(i, placed.units[i]) for i in placed.apart(name)]
        for a, source in own:
            for b, target in own:
                is_pair = source.unit.phase is Phase.PREFILL
                if (
                    is_pair
                    and target.unit.phase is Phase.DECODE
                    and (a, b) not in found
                ):
                    found[a, b] = paths.transfer(source.gpu_indices, target.gpu_indices)
    engine, edges = problem.engine, problem.cluster.topology.edges
    per_byte_s = {
        edge: crowding.get(edge, 1.0) / edges[edge].bytes_per_s
        for each in found.values()
        for edge in each.edges
    }
    kept = deciding_edges(per_byte_s, list(found.values()))
    scale = MS_PER_S / engine.kv_link_efficiency_frac
    return {
        pair: UnitRoute(
            fixed_ms=each.latency_ms + engine.kv_setup_ms,
            ms_per_byte=scale / each.bytes_per_s,
            edges=tuple(
                (edge, scale * share * per_byte_s[edge])
                for edge, share in zip(each.edges, each.shares, strict=True)
                if edge in kept
            ),
        )
        for pair, each in found.items()
    }


@dataclass(slots=True, kw_only=True)
class _Journey:
    """Times of all requests of a service, filled phase by phase."""

    requests: Requests = spec("In order of arrival.")
    prefill_unit: Array = spec("Index of the unit; -1: none.", unit="index")
    decode_unit: Array = spec("Index of the unit; -1: none.", unit="index")
    times: dict[str, Array] = spec("By name, NaN: never.", unit="ms")
    is_rejected: Array = spec("Whether a unit had no room for it at all.")
    num_preemptions: int = spec("Preemptions.", unit="1", default=0)
    num_events: int = spec("Events.", unit="1", default=0)

    @classmethod
    def of(cls, requests: Requests) -> "_Journey":
        num = len(requests.arrival_ms)
        names = ("prefill_start", "first_token", "transfer_start", "ready", "finish")
        return cls(
            requests=requests,
            prefill_unit=np.full(num, state.NONE),
            decode_unit=np.full(num, state.NONE),
            times={name: np.full(num, np.nan) for name in names},
            is_rejected=np.zeros(num, dtype=bool),
        )

    def result(self) -> SimulationResult:
        """What became of the requests."""
        times = self.times
        end_ms = float(np.nanmax(times["finish"], initial=1e-9))
        return SimulationResult(
            arrival_ms=self.requests.arrival_ms,
            input_tokens=self.requests.input_tokens,
            output_tokens=self.requests.output_tokens,
            prefill_start_ms=times["prefill_start"],
            first_token_ms=times["first_token"],
            transfer_start_ms=times["transfer_start"],
            decode_ready_ms=times["ready"],
            finish_ms=times["finish"],
            prefill_replica=self.prefill_unit,
            decode_replica=self.decode_unit,
            is_done=np.isfinite(times["finish"]),
            is_rejected=self.is_rejected,
            num_preemptions=self.num_preemptions,
            num_events=self.num_events,
            end_ms=end_ms,
            sample_ms=end_ms,
            replicas=(),
            is_complete=True,
        )


def sharing_phases(placed: PlacedUnits, services: Sequence[str]) -> tuple[str, ...]:
    """Services of which a one-phase unit is shared with others."""
    return tuple(
        name
        for name in services
        if any(placed.units[index].unit.is_shared for index in placed.apart(name))
    )


def serve_shared_phases(
    placed: PlacedUnits,
    traffic: Mapping[str, Requests],
    routes: Routes,
    bytes_per_token: Mapping[str, float],
    run: UnitRun,
) -> tuple[dict[str, SimulationResult], dict[int, UnitResult]]:
    """Serve services on the one-phase units that they share.

    Parameters
    ----------
    placed
        The units, on GPUs.
    traffic
        Requests of each of these services.
    routes
        How KV caches go from unit to unit.
    bytes_per_token
        KV cache that each service sends for a token of its prompts.
    run
        Serves requests on one unit.

    Returns
    -------
    tuple[dict[str, SimulationResult], dict[int, UnitResult]]
        By service, and by index of the unit.
    """
    journeys = {name: _Journey.of(requests) for name, requests in traffic.items()}
    by_unit: dict[int, UnitResult] = {}
    for name, journey in journeys.items():
        promised = placed.phase_rps(name, Phase.PREFILL)
        num = len(journey.requests.arrival_ms)
        journey.prefill_unit = deal(num, promised, sum(promised))
    for unit in _units_of(placed, Phase.PREFILL):
        by_unit |= _prefill(placed.units[unit].unit, unit, journeys, run)
    for name, journey in journeys.items():
        _choose_targets(journey, placed.phase_rps(name, Phase.DECODE))
    _send(journeys, routes, bytes_per_token)
    for unit in _units_of(placed, Phase.DECODE):
        by_unit |= _decode(placed.units[unit].unit, unit, journeys, run)
    return {name: each.result() for name, each in journeys.items()}, by_unit


def _units_of(placed: PlacedUnits, phase: Phase) -> list[int]:
    units = enumerate(placed.units)
    return [index for index, each in units if each.unit.phase is phase]


def _prefill(
    unit: LlmUnit, index: int, journeys: Mapping[str, _Journey], run: UnitRun
) -> dict[int, UnitResult]:
    """Prompts on one unit; nothing where none of the services is on it."""
    rows = {
        name: np.flatnonzero(each.prefill_unit == index)
        for name, each in journeys.items()
    }
    rows = {name: own for name, own in rows.items() if len(own)}
    if not rows:
        return {}
    result = run(unit, {n: only(journeys[n].requests, own) for n, own in rows.items()})
    for name, own in rows.items():
        journey, found = journeys[name], result.services[name]
        journey.times["prefill_start"][own] = found.prefill_start_ms
        journey.times["first_token"][own] = found.first_token_ms
        journey.is_rejected[own] = found.is_rejected
        is_over = journey.requests.output_tokens[own] == 1
        journey.times["finish"][own[is_over]] = found.finish_ms[is_over]
        _count(journey, found)
    return {index: result}


def _choose_targets(journey: _Journey, promised_rps: Sequence[float]) -> None:
    """Decode-only units of the requests that have tokens to come, as they are ready."""
    first = journey.times["first_token"]
    journey.times["ready"][:] = first
    rows = np.flatnonzero(np.isfinite(first) & (journey.requests.output_tokens > 1))
    rows = rows[np.argsort(first[rows], kind="stable")]
    journey.decode_unit[rows] = deal(len(rows), promised_rps, sum(promised_rps))


def _send(
    journeys: Mapping[str, _Journey],
    routes: Routes,
    bytes_per_token: Mapping[str, float],
) -> None:
    """KV caches of all services on their way, in the order of first tokens.

    Each takes every link of its route when all are free, for the bytes that cross it.
    """
    waiting = [
        (float(each.times["first_token"][row]), number, int(row))
        for number, each in enumerate(journeys.values())
        for row in np.flatnonzero(each.decode_unit >= 0)
    ]
    ordered, names = list(journeys.values()), list(journeys)
    free: dict[int, float] = {}
    for start, number, row in sorted(waiting):
        journey = ordered[number]
        pair = int(journey.prefill_unit[row]), int(journey.decode_unit[row])
        route = routes[pair]
        size = bytes_per_token[names[number]] * float(
            journey.requests.input_tokens[row]
        )
        for edge, _ in route.edges:
            start = max(start, free.get(edge, 0.0))
        for edge, ms_per_byte in route.edges:
            free[edge] = start + size * ms_per_byte
        journey.times["transfer_start"][row] = start
        end = start + route.fixed_ms + size * route.ms_per_byte
        journey.times["ready"][row] = end


def _decode(
    unit: LlmUnit, index: int, journeys: Mapping[str, _Journey], run: UnitRun
) -> dict[int, UnitResult]:
    """The rest of the answers on one unit, from when their KV caches are there."""
    rows = {}
    for name, each in journeys.items():
        own = np.flatnonzero(each.decode_unit == index)
        if len(own):
            rows[name] = own[np.argsort(each.times["ready"][own], kind="stable")]
    if not rows:
        return {}
    arriving = {
        name: Requests(
            arrival_ms=journeys[name].times["ready"][own],
            input_tokens=journeys[name].requests.input_tokens[own],
            output_tokens=journeys[name].requests.output_tokens[own],
        )
        for name, own in rows.items()
    }
    result = run(unit, arriving)
    for name, own in rows.items():
        journey, found = journeys[name], result.services[name]
        journey.times["finish"][own] = found.finish_ms
        journey.is_rejected[own] = found.is_rejected
        _count(journey, found)
    return {index: result}


def _count(journey: _Journey, found: SimulationResult) -> None:
    journey.num_preemptions += found.num_preemptions
    journey.num_events += found.num_events
