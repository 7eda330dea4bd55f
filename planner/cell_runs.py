"""Cell runs: the requests of a large deployment, simulated cell by cell.

Each request goes to a cell at random, in proportion to the capacity of the cells. Of
every kind of cell one is simulated and stands for the others: their requests and
replicas are counted as its own, once for each of them. A cell in which something
happens from outside stands for itself alone; its requests do not go to other cells.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusters.fields import InputError
from planner.capacity import system_capacity_rps
from planner.cells import MOST_REPLICAS, CellKind
from planner.simulator.build import SimulationOptions
from planner.simulator.outcome import ReplicaStats, SimulationResult
from planner.simulator.outside_schedule import OutsideEvent, OutsideKind
from planner.simulator.simulate import simulate
from planner.simulator.token_gaps import GapHistogram
from planner.workload.requests import Requests

_SAMPLE_REQUESTS = 2000


def simulate_cells(
    kinds: Sequence[CellKind],
    requests: Requests,
    *,
    seed: int,
    events: Sequence[OutsideEvent] = (),
    is_itl_counted: bool = False,
) -> SimulationResult:
    """Simulate `requests` on one cell of each kind, and put the cells together.

    Parameters
    ----------
    kinds, requests, seed
        The cells, their requests, and the seed by which these are dealt.
    events
        What happens from outside, with the replicas' indices in the whole deployment.
    is_itl_counted
        Count the gaps between tokens.

    Raises
    ------
    InputError
        When there are too few requests for every kind of cell to get one, or naming
        the first event that cannot be.
    """
    for number, event in enumerate(events):
        if event.kind is OutsideKind.FLIP:
            where = f"events[{number}].kind"
            raise InputError(where, "flip", f"none beyond {MOST_REPLICAS} replicas")
    kinds = _with_own_cells(kinds, {event.replica for event in events})
    cell_of = _split(kinds, requests, seed)
    results = []
    first = 0
    for kind in kinds:
        mine = np.flatnonzero(cell_of == first)
        if len(mine) == 0:
            cells = sum(len(each.cells) for each in kinds)
            raise InputError("num_requests", len(requests), f"more for {cells} cells")
        own = _events_of(kind.cells[0], events)
        options = SimulationOptions(events=own, is_itl_counted=is_itl_counted)
        results.append(simulate(kind.system, requests.take(mine), options=options))
        first += len(kind.cells)
    return _joined(kinds, results)


def _with_own_cells(
    kinds: Sequence[CellKind], touched: set[int]
) -> tuple[CellKind, ...]:
    """The kinds, every cell that holds one of the replicas as a kind of its own."""
    found = []
    for kind in kinds:
        own = [cell for cell in kind.cells if touched.intersection(cell)]
        rest = tuple(cell for cell in kind.cells if cell not in own)
        found += [replace(kind, cells=(cell,)) for cell in own]
        found += [replace(kind, cells=rest)] if rest else []
    return tuple(found)


def _events_of(
    cell: Sequence[int], events: Sequence[OutsideEvent]
) -> tuple[OutsideEvent, ...]:
    """The events of a cell's replicas, by their places in the cell."""
    place = {replica: index for index, replica in enumerate(cell)}
    return tuple(
        replace(event, replica=place[event.replica])
        for event in events
        if event.replica in place
    )


def _split(
    kinds: Sequence[CellKind], requests: Requests, seed: int
) -> NDArray[np.int64]:
    """The cell of every request, numbered kind by kind."""
    sample = requests.head(_SAMPLE_REQUESTS)
    rates: list[float] = []
    for kind in kinds:
        rates += [system_capacity_rps(kind.system, sample)] * len(kind.cells)
    weights = np.array(rates) / sum(rates)
    rng = np.random.default_rng(seed)
    cell_of = rng.choice(len(weights), size=len(requests), p=weights)
    return cell_of if requests.turns is None else cell_of[requests.turns.roots()]


def _joined(
    kinds: Sequence[CellKind], results: Sequence[SimulationResult]
) -> SimulationResult:
    """One result of all cells, requests in the order of their arrival."""
    copies = [len(kind.cells) for kind in kinds]
    joined: dict[str, Any] = {
        name: np.concatenate(
            [np.tile(getattr(r, name), n) for r, n in zip(results, copies, strict=True)]
        )
        for name in SimulationResult.__dataclass_fields__
        if isinstance(getattr(results[0], name), np.ndarray)
    }
    order = np.argsort(joined["arrival_ms"], kind="stable")
    replicas: dict[int, ReplicaStats] = {}
    for kind, result in zip(kinds, results, strict=True):
        for members in kind.cells:
            replicas |= dict(zip(members, result.replicas, strict=True))
    for name in ("prefill_replica", "decode_replica"):
        joined[name] = _placed(kinds, results, name)
    gaps = [
        (result.token_gaps, n)
        for result, n in zip(results, copies, strict=True)
        if result.token_gaps is not None
    ]
    return SimulationResult(
        **{name: values[order] for name, values in joined.items()},
        token_gaps=GapHistogram.joined(gaps) if gaps else None,
        num_preemptions=sum(
            r.num_preemptions * n for r, n in zip(results, copies, strict=True)
        ),
        num_recomputed=sum(
            r.num_recomputed * n for r, n in zip(results, copies, strict=True)
        ),
        num_recomputed_tokens=sum(
            r.num_recomputed_tokens * n for r, n in zip(results, copies, strict=True)
        ),
        num_rerouted=sum(
            r.num_rerouted * n for r, n in zip(results, copies, strict=True)
        ),
        num_events=sum(r.num_events * n for r, n in zip(results, copies, strict=True)),
        end_ms=max(result.end_ms for result in results),
        sample_ms=results[0].sample_ms,
        replicas=tuple(replicas[index] for index in sorted(replicas)),
        is_complete=all(result.is_complete for result in results),
    )


def _placed(
    kinds: Sequence[CellKind], results: Sequence[SimulationResult], name: str
) -> NDArray[np.int64]:
    """Replicas of the requests, by their index in the whole deployment."""
    parts = []
    for kind, result in zip(kinds, results, strict=True):
        local = getattr(result, name)
        for members in kind.cells:
            whole = np.array([*members, -1], dtype=np.int64)  # -1: none
            parts.append(whole[local])
    return np.concatenate(parts)
