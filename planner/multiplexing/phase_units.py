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
    - the units of one phase of an LLM are alike, since routers compare loads, not
      speeds
    - a unit of one phase has one LLM; phases of several LLMs share GPUs only in units
      that serve whole requests

Assumes   the operating points of a `UnitSpace`
Cost      three rates by bisection for each LLM and mesh, and one transfer each way
Guarantee rates by the same estimate as those of other units; all such units are listed
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from clusters.fields import InputError
from clusters.units import MS_PER_S
from models.memory import kv_bytes
from planner.kv_paths import KvPaths, Transfer
from planner.multiplexing.columns import Column
from planner.multiplexing.llm_costs import CostBook, LlmCosts
from planner.multiplexing.loads import OperatingPoint, most_rps
from planner.multiplexing.meshes import MeshKind, MeshSupply
from planner.multiplexing.space import UnitSpace
from planner.multiplexing.unit import LlmUnit, UnitMember
from planner.placement import FreeGpus
from planner.problem import EngineSettings
from planner.simulator.system import Phase

APART = (Phase.PREFILL, Phase.DECODE)


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
        self.columns: tuple[Column, ...] = (
            tuple(self._all()) if space.splits_phases else ()
        )

    def serves(self, llm: int) -> bool:
        """Whether there are units for both phases of an LLM."""
        found = {column.phase for column in self.columns if column.members == (llm,)}
        return found == set(APART)

    def unit(self, column: Column) -> LlmUnit:
        """The unit behind a column of these."""
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
            decodes = {
                mesh: self._decoded_rps(cost, sources, mesh) for mesh, cost in costs
            }
            if max(decodes.values(), default=0.0) <= 0:
                continue
            for phase, rates in zip(APART, (prefills, decodes), strict=True):
                for mesh, most in rates.items():
                    if most > 0:
                        yield Column(mesh=mesh, served=((llm, most),), phase=phase)

    def _prefilled_rps(self, cost: LlmCosts) -> float:
        return max(most_rps(point, cost) for point in self._prefills)

    def _decoded_rps(
        self, cost: LlmCosts, sources: Sequence[MeshKind], mesh: MeshKind
    ) -> float:
        """Answers of a decode-only unit, whichever GPU type sends it the caches."""
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
            return 0.0
        slowest = min(fastest.values(), key=lambda each: each.bytes_per_s)
        sent_bytes = kv_bytes(demand.llm, demand.input_tokens)
        bytes_per_s = engine.kv_link_efficiency_frac * slowest.bytes_per_s
        fixed_ms = slowest.latency_ms + engine.kv_setup_ms
        transfer_ms = fixed_ms + MS_PER_S * sent_bytes / bytes_per_s
        decoded = most_rps(self._decodes, cost, transfer_ms=transfer_ms)
        return min(decoded, bytes_per_s / sent_bytes)

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
    """Step 3: both phases of an LLM are to serve the same, and no more than is left.

    Units of a phase without the other one serve nobody, and are left out.
    """
    served: dict[tuple[str, Phase], float] = {}
    for unit in units:
        for member in unit.members:
            key = (member.service, unit.phase)
            served[key] = served.get(key, 0.0) + member.served_rps
    found = []
    for unit in units:
        if unit.phase is Phase.AGGREGATED:
            found.append(unit)
            continue
        (member,) = unit.members
        name = member.service
        left = wanted_rps[name] - served.get((name, Phase.AGGREGATED), 0.0)
        both = min(served.get((name, phase), 0.0) for phase in APART)
        share = min(both, left) / served[name, unit.phase]
        if share > 0:
            less = replace(member, served_rps=member.served_rps * share)
            found.append(replace(unit, members=(less,)))
    return found
