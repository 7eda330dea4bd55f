"""Units on concrete GPUs, with all of their memory given out, and what must hold."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from clusters.fields import InputError, check_fields, spec
from models.parallelism import Parallelism
from planner.deployment import ReplicaShape
from planner.kv_paths import KvPaths
from planner.multiplexing.llm_costs import CostBook, LlmCosts
from planner.multiplexing.problem import SharedProblem
from planner.multiplexing.unit import LlmUnit
from planner.placement import place
from planner.simulator.system import Phase

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedUnit:
    """A unit and its GPUs."""

    unit: LlmUnit = spec("The unit.")
    gpu_indices: tuple[int, ...] = spec("Its GPUs (indices in the cluster).")

    def __post_init__(self) -> None:
        if len(self.gpu_indices) != self.unit.mesh.num_gpus:
            form = f"{self.unit.mesh.num_gpus} GPUs"
            raise InputError("gpu_indices", self.gpu_indices, form)

    def rps_of(self, service: str) -> float:
        """Load that it serves of whole requests of a service."""
        return sum(
            member.served_rps
            for member in self.unit.members
            if member.service == service and self.unit.phase is Phase.AGGREGATED
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedUnits:
    """All units of a placement."""

    units: tuple[PlacedUnit, ...] = spec("Units, the largest meshes first.")

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def num_gpus(self) -> int:
        """GPUs in use."""
        return sum(len(each.gpu_indices) for each in self.units)

    @property
    def gpu_indices(self) -> tuple[int, ...]:
        """All GPUs in use."""
        return tuple(sorted(gpu for each in self.units for gpu in each.gpu_indices))

    def served_rps(self, service: str) -> float:
        """Load that all units together serve of a service."""
        whole = sum(each.rps_of(service) for each in self.units)
        return whole + self.apart_rps(service)

    def apart_rps(self, service: str) -> float:
        """Load of a service that units of one phase serve: what both phases do."""
        return min(
            sum(self.phase_rps(service, phase))
            for phase in (Phase.PREFILL, Phase.DECODE)
        )

    def phase_rps(self, service: str, phase: Phase) -> list[float]:
        """Load of one phase of a service on each unit, shape (num_units,)."""
        return [
            sum(
                member.served_rps
                for member in each.unit.members
                if member.service == service and each.unit.phase is phase
            )
            for each in self.units
        ]

    def apart(self, service: str) -> tuple[int, ...]:
        """Indices of the prefill-only and decode-only units of a service."""
        return tuple(
            index
            for index, each in enumerate(self.units)
            if each.unit.phase is not Phase.AGGREGATED
            and any(member.service == service for member in each.unit.members)
        )

    @property
    def disaggregated(self) -> tuple[str, ...]:
        """Services whose phases have units of their own."""
        names = {
            member.service
            for each in self.units
            if each.unit.phase is not Phase.AGGREGATED
            for member in each.unit.members
        }
        return tuple(sorted(names))


def place_units(
    problem: SharedProblem, book: CostBook, units: Sequence[LlmUnit]
) -> PlacedUnits:
    """Give each unit GPUs of one host, and its LLMs the rest of their memory."""
    ordered = sorted(units, key=_near_each_other)
    shapes = [
        ReplicaShape(
            phase=Phase.AGGREGATED,
            gpu_type=unit.mesh.gpu_type,
            parallelism=Parallelism(tp=unit.mesh.num_gpus),
        )
        for unit in ordered
    ]
    placed = place(problem.cluster, shapes)
    if placed is None:
        form = "units that fit the hosts together"
        raise InputError("units", [str(unit.mesh) for unit in ordered], form)
    found = PlacedUnits(
        units=tuple(
            PlacedUnit(unit=_filled(problem, book, unit), gpu_indices=stages[0])
            for unit, stages in zip(ordered, placed, strict=True)
        )
    )
    check_units(problem, book, found)
    return found


def check_units(problem: SharedProblem, book: CostBook, placed: PlacedUnits) -> None:
    """GPUs exist and are used once, units fit their memory, every service has one.

    Raises
    ------
    InputError
        Naming the first thing that does not hold.
    """
    topology, total = problem.cluster.topology, problem.cluster.num_gpus
    uses = Counter(gpu for unit in placed.units for gpu in unit.gpu_indices)
    for gpu, times in sorted(uses.items()):
        if not 0 <= gpu < total:
            raise InputError("units.gpus", gpu, f"a GPU between 0 and {total - 1}")
        if times > 1:
            raise InputError("units.gpus", gpu, "each GPU in one unit only")
    for index, each in enumerate(placed.units):
        where = f"units[{index}]"
        if len({topology.domain_of(gpu) for gpu in each.gpu_indices}) > 1:
            form = "GPUs of one node or NVLink domain"
            raise InputError(f"{where}.gpu_indices", each.gpu_indices, form)
        types = sorted({topology.gpu(gpu).type.name for gpu in each.gpu_indices})
        if types != [each.unit.mesh.gpu_type]:
            wrong = each.unit.mesh.gpu_type
            raise InputError(f"{where}.mesh.gpu_type", wrong, f"{types}")
        free = free_bytes(book, each.unit)
        if free < -_ROUNDING * _costs_of(book, each.unit)[0].budget_bytes:
            form = "KV quotas that fit beside the weights"
            raise InputError(f"{where}.members.kv_quota_tokens", round(free), form)
    for service in problem.services:
        phases = {placed.units[i].unit.phase for i in placed.apart(service.name)}
        if len(phases) == 1:
            form = "a prefill-only and a decode-only unit, or neither"
            raise InputError("units", service.name, form)
        if placed.served_rps(service.name) <= 0:
            raise InputError("units", service.name, "a unit for every service")
        _check_routes(problem, placed, service.name)


def _check_routes(problem: SharedProblem, placed: PlacedUnits, service: str) -> None:
    """A KV cache has a way from each prefill-only unit to each decode-only one."""
    own = [placed.units[index] for index in placed.apart(service)]
    paths = KvPaths.of(problem.cluster)
    for source in own:
        for target in own:
            is_pair = source.unit.phase is Phase.PREFILL
            if is_pair and target.unit.phase is Phase.DECODE:
                paths.transfer(source.gpu_indices, target.gpu_indices)


def _near_each_other(unit: LlmUnit) -> tuple[int, bool, str, bool]:
    """Order of placement: large meshes first, the phases of an LLM side by side."""
    is_apart = unit.phase is not Phase.AGGREGATED
    name = unit.members[0].service if is_apart else ""
    return -unit.mesh.num_gpus, is_apart, name, unit.phase is Phase.DECODE


def free_bytes(book: CostBook, unit: LlmUnit) -> float:
    """Memory of each GPU that is left beside weights, processes and KV quotas."""
    costs = _costs_of(book, unit)
    used = sum(
        cost.fixed_bytes + unit.num_processes * cost.process_bytes for cost in costs
    )
    for cost, member in zip(costs, unit.members, strict=True):
        used += cost.kv_bytes_per_token * member.kv_quota_tokens
    return costs[0].budget_bytes - used


def _filled(problem: SharedProblem, book: CostBook, unit: LlmUnit) -> LlmUnit:
    """The unit with KV quotas that fill its memory.

    What nobody needs goes to the LLMs by load and KV bytes of a token, as MuxServe
    divides its cache.
    """
    costs, free = _costs_of(book, unit), free_bytes(book, unit)
    block = problem.engine.memory.block_tokens
    claims = [
        member.served_rps * cost.kv_bytes_per_token
        for member, cost in zip(unit.members, costs, strict=True)
    ]
    members = []
    for member, cost, claim in zip(unit.members, costs, claims, strict=True):
        more = free * claim / sum(claims) / cost.kv_bytes_per_token
        tokens = int(member.kv_quota_tokens + more) // block * block
        members.append(replace(member, kv_quota_tokens=max(block, tokens)))
    return replace(unit, members=tuple(members))


def _costs_of(book: CostBook, unit: LlmUnit) -> list[LlmCosts]:
    index = {demand.name: i for i, demand in enumerate(book.demands)}
    found = []
    for member in unit.members:
        if member.service not in index:
            raise InputError("members.service", member.service, "a known service")
        cost = book.costs(index[member.service], unit.mesh)
        if cost is None:
            why = book.why_not(index[member.service], unit.mesh)
            raise InputError("members.service", member.service, f"room ({why})")
        found.append(cost)
    return found
