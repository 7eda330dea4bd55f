"""Units of one phase: prefills of an LLM on some GPUs, its decodes on others.

Reference
    Zhong et al., "DistServe", OSDI 2024, arXiv 2401.09670: phases that do not disturb
    each other. Duan et al., "MuxServe", ICML 2024, arXiv 2404.02015, whose units share
    GPUs: here both kinds of unit are columns of one programme.

Idea
    A prefill-only unit serves as many prompts as its TTFT limit allows, a decode-only
    one as many answers as its TPOT limit does, with all SMs and nothing beside it. What
    an LLM is served by such units is what the slower phase serves. KV caches go from
    the one to the other over the links of the cluster: the time is taken off what the
    TPOT limit leaves, and a unit receives no more than its links carry.

Steps
    1. Of each LLM and mesh, the most that a prefill-only unit serves.
    2. The same for a decode-only unit, with the slowest transfer to it.
    3. After the choice of units, both phases are to serve the same.

Differences from the papers
    - the units of one phase of an LLM are on meshes alike, since routers compare loads,
      not speeds; where LLMs share units, requests are dealt as planned
    - neither paper lets LLMs share prefill-only or decode-only GPUs

Assumes   the operating points of a `UnitSpace`
Cost      three rates by bisection for each LLM and mesh, and one transfer each way
Guarantee rates by the same estimate as those of other units; units of one LLM are
          listed, those of several are found by `UnitModel`
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from clusters.fields import InputError
from clusters.units import MS_PER_S
from models.memory import kv_bytes
from planner.kv_paths import KvPaths, Transfer
from planner.multiplexing.columns import APART, NOISE, Column
from planner.multiplexing.llm_costs import CostBook, LlmCosts
from planner.multiplexing.loads import (
    KvArrival,
    Loads,
    OperatingPoint,
    loads_at,
    most_rps,
)
from planner.multiplexing.meshes import MeshKind, MeshSupply
from planner.multiplexing.problem import LlmDemand
from planner.multiplexing.space import UnitSpace
from planner.multiplexing.unit import LlmUnit, UnitMember
from planner.placement import FreeGpus
from planner.problem import EngineSettings
from planner.simulator.system import Phase


class PhaseUnits:
    """Prefill-only and decode-only units of a problem's LLMs."""

    def __init__(
        self,
        book: CostBook,
        supply: MeshSupply,
        space: UnitSpace,
        engine: EngineSettings,
    ) -> None:
        self._book, self._supply, self._engine = book, supply, engine
        self._transfers: dict[tuple[MeshKind, MeshKind], Transfer | None] = {}
        self._prefills = tuple(
            OperatingPoint(
                prefill_share_frac=1.0,
                prefill_load_frac=load,
                prefill_prompts=prompts,
                phase=Phase.PREFILL,
            )
            for load, prompts in space.prefills
        )
        self._decodes = replace(self._prefills[0], phase=Phase.DECODE)
        self._space = space
        self._rates: dict[tuple[int, MeshKind, Phase], float] = {}
        self._arrivals: dict[tuple[int, MeshKind], KvArrival] = {}
        self._loads: dict[MeshKind, tuple[Loads, ...]] = {}
        self.columns: tuple[Column, ...] = (
            tuple(self._all()) if space.splits_phases else ()
        )

    def serves(self, llm: int) -> bool:
        """Whether there are units for both phases of an LLM."""
        found = {column.phase for column in self.columns if column.members == (llm,)}
        return found == set(APART)

    def loads(self, mesh: MeshKind) -> tuple[Loads, ...]:
        """Step 3: loads of LLMs that may share a unit of one phase on a mesh."""
        if mesh not in self._loads:
            found = (self._loads_at(point, mesh) for point in self._points())
            self._loads[mesh] = tuple(loads for loads in found if len(loads))
        return self._loads[mesh]

    def _points(self) -> Iterator[OperatingPoint]:
        """Every way a unit with several LLMs may run."""
        space = self._space
        shares = space.shares_phases and (space.shares_space or space.shares_time)
        if not (space.splits_phases and shares) or space.max_llms == 1:
            return
        for point in self._prefills:
            yield replace(point, max_llms=space.max_llms)
        decodes = replace(self._decodes, max_llms=space.max_llms)
        if space.shares_space:
            for stretch in space.stretches:
                yield replace(decodes, stretch=stretch)
        if space.shares_time:
            for cycle_ms in space.cycles_ms([d.tpot_limit_ms for d in self._demands]):
                yield replace(decodes, cycle_ms=cycle_ms)

    def _loads_at(self, point: OperatingPoint, mesh: MeshKind) -> Loads:
        wanted = []
        for llm, demand in enumerate(self._demands):
            most = self._rates.get((llm, mesh, point.phase), 0.0)
            cost = self._book.costs(llm, mesh)
            if cost is None or most <= 0:
                continue
            rates = {part * most for part in self._space.parts}
            rates.add(demand.rate_rps / math.ceil(demand.rate_rps / most - NOISE))
            wanted.append((llm, cost, tuple(sorted(rates, reverse=True))))
        arrivals = {llm: self._arrivals[llm, mesh] for llm, _, _ in wanted}
        return loads_at(point, wanted, arrivals=arrivals)

    @property
    def _demands(self) -> Sequence[LlmDemand]:
        return self._book.demands

    def unit(self, column: Column) -> LlmUnit:
        """The unit of one LLM behind a column of these."""
        ((llm, served_rps),) = column.served
        demand = self._book.demands[llm]
        cost = self._book.costs(llm, column.mesh)
        assert cost is not None, "a column of these"
        is_prefill = column.phase is Phase.PREFILL
        most = min(self._engine.limits.max_num_seqs, cost.batches[-1])
        member = UnitMember(
            service=demand.name,
            served_rps=served_rps,
            decode_share_frac=1.0,
            kv_quota_tokens=math.ceil(demand.longest_tokens),
            max_num_seqs=most,
            prefill_ms=cost.prefill_ms[1, 1.0] if is_prefill else 0.0,
            tpot_ms=0.0 if is_prefill else float(cost.decode_ms[1.0][most]),
        )
        return LlmUnit(
            mesh=column.mesh,
            members=(member,),
            phase=column.phase,
            prefill_share_frac=1.0,
        )

    def _all(self) -> Iterator[Column]:
        """Steps 1 and 2: the units of each LLM, where it has any of both phases."""
        for llm in range(len(self._book.demands)):
            costs = [
                (mesh, cost)
                for mesh in self._supply.kinds
                if (cost := self._book.costs(llm, mesh)) is not None
            ]
            prefills = {mesh: self._prefilled_rps(cost) for mesh, cost in costs}
            sources = [mesh for mesh, most in prefills.items() if most > 0]
            decodes = {}
            for mesh, cost in costs:
                arrival = self._arrival(cost, sources, mesh)
                self._arrivals[llm, mesh] = arrival or KvArrival()
                decodes[mesh] = self._decoded_rps(cost, arrival)
            if max(decodes.values(), default=0.0) <= 0:
                continue
            for phase, rates in zip(APART, (prefills, decodes), strict=True):
                for mesh, most in rates.items():
                    self._rates[llm, mesh, phase] = most
                    if most > 0:
                        yield Column(mesh=mesh, served=((llm, most),), phase=phase)

    def _prefilled_rps(self, cost: LlmCosts) -> float:
        return max(most_rps(point, cost) for point in self._prefills)

    def _arrival(
        self, cost: LlmCosts, sources: Sequence[MeshKind], mesh: MeshKind
    ) -> KvArrival | None:
        """How KV caches come to a decode-only unit, whichever GPU type sends them."""
        demand, engine = cost.demand, self._engine
        fastest: dict[str, Transfer] = {}
        for source in sources:
            found, known = self._transfer(source, mesh), fastest.get(source.gpu_type)
            is_faster = known is None or (
                found is not None and found.bytes_per_s > known.bytes_per_s
            )
            if found is not None and is_faster:
                fastest[source.gpu_type] = found
        if not fastest:
            return None
        slowest = min(fastest.values(), key=lambda each: each.bytes_per_s)
        sent_bytes = kv_bytes(demand.llm, demand.input_tokens)
        bytes_per_s = engine.kv_link_efficiency_frac * slowest.bytes_per_s
        fixed_ms = slowest.latency_ms + engine.kv_setup_ms
        link_ms = MS_PER_S * sent_bytes / bytes_per_s
        return KvArrival(transfer_ms=fixed_ms + link_ms, link_ms=link_ms)

    def _decoded_rps(self, cost: LlmCosts, arrival: KvArrival | None) -> float:
        """Answers of a decode-only unit, no more than its links carry."""
        if arrival is None:
            return 0.0
        transfer_ms = arrival.transfer_ms
        decoded = most_rps(self._decodes, cost, 1.0, transfer_ms=transfer_ms)
        return min(decoded, MS_PER_S / arrival.link_ms)

    def _transfer(self, source: MeshKind, target: MeshKind) -> Transfer | None:
        if (source, target) not in self._transfers:
            found = self._slowest_transfer(source, target)
            self._transfers[source, target] = found
        return self._transfers[source, target]

    def _slowest_transfer(self, source: MeshKind, target: MeshKind) -> Transfer | None:
        """The transfer from the first host of a type to the last one of the other."""
        hosts = FreeGpus.of(self._book.cluster).hosts
        sources = [h for h in hosts if _has_room(h.gpu_type, h.num_free, source)]
        targets = [h for h in hosts if _has_room(h.gpu_type, h.num_free, target)]
        first, last = sources[0], targets[-1]
        senders = first.take(source.num_gpus)
        if not _has_room(last.gpu_type, last.num_free, target):
            return None  # one host, which has no room for both
        try:
            return KvPaths.of(self._book.cluster).transfer(
                senders, last.take(target.num_gpus)
            )
        except InputError:
            return None  # no link joins them


def _has_room(gpu_type: str, num_free: int, mesh: MeshKind) -> bool:
    return gpu_type == mesh.gpu_type and num_free >= mesh.num_gpus


def balanced(units: Sequence[LlmUnit], wanted_rps: dict[str, float]) -> list[LlmUnit]:
    """Step 4: both phases of an LLM are to serve the same, and no more than is left.

    LLMs in units of a phase without the other one serve nobody, and are left out.
    """
    served: dict[tuple[str, Phase], float] = {}
    for unit in units:
        for member in unit.members:
            key = (member.service, unit.phase)
            served[key] = served.get(key, 0.0) + member.served_rps
    found = []
    for unit in units:
        members = []
        for member in unit.members if unit.phase is not Phase.AGGREGATED else ():
            name = member.service
            left = wanted_rps[name] - served.get((name, Phase.AGGREGATED), 0.0)
            both = min(served.get((name, phase), 0.0) for phase in APART)
            share = min(both, left) / served[name, unit.phase]
            if share > 0:
                members.append(replace(member, served_rps=member.served_rps * share))
        if unit.phase is Phase.AGGREGATED:
            found.append(unit)
        elif members:
            found.append(replace(unit, members=tuple(members)))
    return found
