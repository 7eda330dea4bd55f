"""Splits: what each phase takes of a host, and what its own NICs then have to carry.

Reference
    Gilmore and Gomory, "A Linear Programming Approach to the Cutting-Stock Problem",
    Operations Research 9(6), 1961: hosts are counted by how they are filled.

Idea
    NICs of a class added up promise what no host sends: where one of four hosts only
    prefills, it sends no more than its own NICs carry. What a host has to send or take
    follows from how many of its GPUs prefill and decode. So hosts are counted by both
    numbers (a split), and the groups of replicas are dealt out to the splits.

Steps
    1. Only a class of several hosts that could make more KV caches than their NICs
       carry is split (`is_narrow`).
    2. Every pair of numbers of GPUs that groups of both phases can fill is a split;
       where these are too many, every number that decodes, with any that prefills.
    3. On y hosts of a split, prefilled and decoded requests are within what its groups
       do, and differ by at most what y hosts' NICs carry.

Differences from the paper
    - one split stands for all fillings with as many GPUs of each phase, and says which
      groups fit. So none need be generated.

Assumes   that a group of a replica sends or takes its part of each KV cache, to any
          host: each of n stages an n-th
Cost      one integer a split, one continuous variable a column and split
Guarantee a relaxation: no filling of single hosts, with all KV caches through their
          NICs, serves more. Hosts of one split that are filled unlike share their NICs
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import pulp

from clusters.fields import spec
from planner.search.milp import whole_value
from planner.search.provisioning.columns import Column
from planner.search.provisioning.hosts import HostClass
from planner.simulator.system import Phase

MOST_GROUPS = 400
"""Beyond so many pairs of a column and a split, fewer splits are told apart, or none:
the programme is solved some dozens of times."""

Counted = Sequence[tuple[Column, pulp.LpVariable]]
"""Columns, each with how many there are of it: replicas or groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Hosts with so many GPUs of each phase in use."""

    num_prefill: int | None = spec(
        "GPUs that prefill; None: any that do not decode.", unit="GPUs"
    )
    num_decode: int = spec("GPUs that decode.", unit="GPUs")


def is_narrow(
    hosts: HostClass, columns: Sequence[Column], nic_rps: float | None
) -> bool:
    """Whether a host could make or take more KV caches than its NICs carry.

    `nic_rps` are the requests whose caches the NICs of one host carry; None: any
    number.
    """
    if nic_rps is None:
        return False
    per_gpu_rps = max((c.rate_rps / c.num_gpus for c in columns), default=0.0)
    return per_gpu_rps * hosts.num_gpus > nic_rps


def splits_of(hosts: HostClass, columns: Sequence[Column]) -> tuple[Split, ...]:
    """Every split of a host that columns can fill; empty where these are too many."""
    filled = {Phase.PREFILL: {0}, Phase.DECODE: {0}}
    for column in columns:
        sums = filled[column.shape.phase]
        for start in sorted(sums):
            sums.update(range(start, hosts.num_gpus + 1, column.width))
    prefills, decodes = sorted(filled[Phase.PREFILL]), sorted(filled[Phase.DECODE])
    pairs = tuple(
        Split(num_prefill=prefill, num_decode=decode)
        for prefill, decode in product(prefills, decodes)
        if 0 < prefill + decode <= hosts.num_gpus
    )
    loose = tuple(Split(num_prefill=None, num_decode=decode) for decode in decodes)
    for found in (pairs, loose):
        if len(found) * len(columns) <= MOST_GROUPS:
            return found
    return ()


class HostSplits:
    """The variables and constraints of one class of hosts, by splits."""

    def __init__(
        self,
        model: pulp.LpProblem,
        name: str,
        hosts: HostClass,
        on_class: Counted,
        nic_rps: float,
    ) -> None:
        self.model, self.name, self.hosts = model, name, hosts
        self.on_class, self.nic_rps = on_class, nic_rps
        self.prefilled: list[pulp.LpVariable] = []
        self.decoded: list[pulp.LpVariable] = []
        self.dealt: list[list[pulp.LpVariable]] = [[] for _ in on_class]
        self.hosts_of: list[tuple[Split, pulp.LpVariable]] = []
        self.nic_rows: list[tuple[str, pulp.LpVariable]] = []

    def build(self, splits: Sequence[Split]) -> None:
        """All variables and constraints."""
        for split in splits:
            self.serve(split)
        used = pulp.lpSum(hosts for _, hosts in self.hosts_of)
        self.model += used <= self.hosts.num_hosts, self.name
        self.deal()

    def deal(self) -> None:
        """Every group is on a host of some split: sum_s groups_cs = pp_c * x_c."""
        for (column, count), dealt in zip(self.on_class, self.dealt, strict=True):
            self.model += pulp.lpSum(dealt) == column.num_groups * count

    def serve(self, split: Split) -> None:
        """On y hosts of a split both phases serve what groups do and NICs carry.

        prefilled <= sum_c rate_c / pp_c * groups_c over those that prefill, decoded
        likewise, and |prefilled - decoded| <= what the NICs of a host carry * y.
        """
        name = f"{self.name}_{len(self.hosts_of)}"
        hosts = self.model.add_variable(name, lowBound=0, cat=pulp.LpInteger)
        self.hosts_of.append((split, hosts))
        served = []
        for phase, number in (
            (Phase.PREFILL, split.num_prefill),
            (Phase.DECODE, split.num_decode),
        ):
            room = self.hosts.num_gpus - split.num_decode if number is None else number
            groups = self._groups(name, phase, room)
            self.fill(groups, hosts, room, is_full=number is not None)
            rate = self.model.add_variable(f"{phase}_{name}", lowBound=0)
            self.model += rate <= pulp.lpSum(
                column.rate_rps / column.num_groups * dealt for column, dealt in groups
            )
            served.append(rate)
        prefilled, decoded = served
        for way, surplus in (("out", prefilled - decoded), ("in", decoded - prefilled)):
            self.model += surplus <= self.nic_rps * hosts, f"{name}_{way}"
            self.nic_rows.append((f"{name}_{way}", hosts))
        self.prefilled.append(prefilled)
        self.decoded.append(decoded)

    def _groups(
        self, name: str, phase: Phase, room: int
    ) -> list[tuple[Column, pulp.LpVariable]]:
        """Groups of the columns of a phase on the hosts of a split."""
        found = []
        for place, (column, _) in enumerate(self.on_class):
            if column.shape.phase is phase and column.width <= room:
                dealt = self.model.add_variable(f"groups_{name}_{place}", lowBound=0)
                self.dealt[place].append(dealt)
                found.append((column, dealt))
        return found

    def fill(
        self, groups: Counted, hosts: pulp.LpVariable, room: int, *, is_full: bool
    ) -> None:
        """Groups of a phase fit the GPUs that a host has for it.

        For every width w, those at least as wide, in multiples of w, are at most
        floor(room / w) * y; all GPUs are taken where they have to be (`is_full`).
        """
        if not groups:
            return
        taken = pulp.lpSum(column.width * dealt for column, dealt in groups)
        self.model += (taken == room * hosts) if is_full else (taken <= room * hosts)
        for width in sorted({column.width for column, _ in groups} - {1}):
            wide = pulp.lpSum(
                (column.width // width) * dealt
                for column, dealt in groups
                if column.width >= width
            )
            self.model += wide <= (room // width) * hosts

    def used(self) -> tuple[tuple[Split, int], ...]:
        """How many hosts have each split in a solution."""
        return tuple(
            (split, whole_value(hosts))
            for split, hosts in self.hosts_of
            if whole_value(hosts) > 0
        )

    def nic_price(self, prices: Mapping[str, float]) -> float:
        """What one request/s more through the NICs of every host adds to the goal.

        `prices` are those of the rows in a solved relaxation.
        """
        return sum(
            prices.get(row, 0.0) * float(hosts.value() or 0.0)
            for row, hosts in self.nic_rows
        )
