"""`simulate_unit`: serve the requests of several services on one unit."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from clusters.fields import spec
from planner.multiplexing import unit_state as state
from planner.multiplexing.llm_costs import CostBook
from planner.multiplexing.unit import LlmUnit
from planner.multiplexing.unit_state import World
from planner.multiplexing.unit_world import UnitLlm, build_world
from planner.simulator.outcome import SimulationResult
from planner.simulator.system import Phase
from planner.workload.requests import Requests

ADAPT_MS = 8000.0
"""Time between adaptations of the quotas, as released with MuxServe."""


class Scheduling(StrEnum):
    """What becomes of the KV quotas while a unit serves."""

    ADBS = "adbs"
    """Adaptive batch scheduling: quotas move to where they are needed."""
    FIXED_QUOTAS = "fixed_quotas"
    """They stay as planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitResult:
    """What became of every request, and how busy the unit was."""

    services: Mapping[str, SimulationResult] = spec("Times of each service's requests.")
    end_ms: float = spec("When the last request ended.", unit="ms", ge=0)
    num_events: int = spec("Events of the simulation.", unit="1", ge=0)
    num_preemptions: int = spec("Preemptions.", unit="1", ge=0)
    num_adaptations: int = spec("Times that quotas moved.", unit="1", ge=0)
    quota_tokens: Mapping[str, int] = spec("KV quotas at the end.", unit="tokens")
    peak_held_tokens: Mapping[str, int] = spec("Most KV cache held.", unit="tokens")
    prefill_busy_frac: float = spec("Time in prefill steps.", unit="1", ge=0)
    decode_busy_frac: Mapping[str, float] = spec("Time in decode steps.", unit="1")


def llms_of(
    unit: LlmUnit, book: CostBook, *, max_batch_tokens: int
) -> tuple[UnitLlm, ...]:
    """The LLMs of a unit as they are simulated."""
    number = {demand.name: index for index, demand in enumerate(book.demands)}
    found = []
    for member in unit.members:
        index = number[member.service]
        cost, steps = book.costs(index, unit.mesh), book.steps(index, unit.mesh)
        assert cost is not None, "a unit that was placed"
        assert steps is not None, "a unit that was placed"
        share = 1.0 if unit.cycle_ms is not None else member.decode_share_frac
        found.append(
            UnitLlm(
                service=member.service,
                steps=steps,
                input_tokens=cost.demand.input_tokens,
                context_tokens=cost.demand.context_tokens,
                decode_share_frac=share,
                kv_quota_tokens=member.kv_quota_tokens,
                kv_bytes_per_token=cost.kv_bytes_per_token,
                max_num_seqs=member.max_num_seqs,
                max_batch_tokens=max_batch_tokens,
            )
        )
    return tuple(found)


def simulate_unit(
    unit: LlmUnit,
    book: CostBook,
    traffic: Mapping[str, Requests],
    *,
    max_batch_tokens: int,
    scheduling: Scheduling = Scheduling.ADBS,
) -> UnitResult:
    """Serve requests on a unit, event by event.

    Parameters
    ----------
    unit
        LLMs with their SM shares and KV quotas on a mesh; a decode-only unit gets
        requests at the time when their KV cache is there, and serves the rest of them.
    book
        Costs of the LLMs.
    traffic
        Requests of each service that come to this unit.
    max_batch_tokens
        Prompt tokens of one prefill step.
    scheduling
        Whether quotas move.
    """
    from planner.multiplexing.unit_kernel import run  # compiles on first use

    llms = llms_of(unit, book, max_batch_tokens=max_batch_tokens)
    given = {name: each for name, each in traffic.items() if len(each)}
    if unit.phase is Phase.PREFILL:
        given = {name: _first_tokens(each) for name, each in given.items()}
    world = build_world(
        llms,
        given,
        sharing=book.sharing_on(unit.mesh.gpu_type),
        prefill_share_frac=unit.prefill_share_frac,
        shares_space=unit.cycle_ms is None,
        adapt_ms=ADAPT_MS if scheduling is Scheduling.ADBS else None,
        decodes_only=unit.phase is Phase.DECODE,
    )
    run(world)
    names = [each.service for each in llms]
    return _collect(world, names)


def _first_tokens(requests: Requests) -> Requests:
    """What a prefill-only unit does of requests: prompts, and a token of each."""
    return Requests(
        arrival_ms=requests.arrival_ms,
        input_tokens=requests.input_tokens,
        output_tokens=np.ones_like(requests.output_tokens),
    )


def _collect(world: World, names: list[str]) -> UnitResult:
    end_ms = max(float(np.nanmax(world.request["finish_ms"], initial=0.0)), 1e-9)
    llm = world.llm
    return UnitResult(
        services={
            name: _result(world, index, end_ms) for index, name in enumerate(names)
        },
        end_ms=end_ms,
        num_events=int(world.clock["num_events"][0]),
        num_preemptions=int(world.clock["num_preemptions"][0]),
        num_adaptations=int(world.clock["num_adaptations"][0]),
        quota_tokens=_by_name(names, llm["quota_tokens"].tolist()),
        peak_held_tokens=_by_name(names, llm["peak_held_tokens"].tolist()),
        prefill_busy_frac=float(llm["prefill_busy_ms"].sum()) / end_ms,
        decode_busy_frac={
            name: busy_ms / end_ms
            for name, busy_ms in zip(names, llm["decode_busy_ms"].tolist(), strict=True)
        },
    )


def _by_name(names: list[str], values: list[int]) -> dict[str, int]:
    return dict(zip(names, values, strict=True))


def _result(world: World, index: int, end_ms: float) -> SimulationResult:
    own = world.request[world.request["llm"] == index]
    nowhere = np.where(own["status"] == state.REJECTED, state.NONE, 0)
    return SimulationResult(
        arrival_ms=own["arrival_ms"].copy(),
        input_tokens=own["input_tokens"].copy(),
        output_tokens=own["output_tokens"].copy(),
        prefill_start_ms=own["prefill_start_ms"].copy(),
        first_token_ms=own["first_token_ms"].copy(),
        transfer_start_ms=np.full(len(own), np.nan),
        decode_ready_ms=own["first_token_ms"].copy(),
        finish_ms=own["finish_ms"].copy(),
        prefill_replica=nowhere,
        decode_replica=nowhere,
        is_done=own["status"] == state.DONE,
        is_rejected=own["status"] == state.REJECTED,
        num_preemptions=int(own["num_preemptions"].sum()),
        num_events=int(world.clock["num_events"][0]),
        end_ms=end_ms,
        sample_ms=end_ms,
        replicas=(),
        is_complete=True,
    )
