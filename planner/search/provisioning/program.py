"""The configuration programme: how many replicas of each configuration.

Reference
    Configuration linear programmes (Gilmore and Gomory, "A Linear Programming Approach
    to the Cutting-Stock Problem", Operations Research 9(6), 1961) for the packing of
    hosts; Griggs et al., "Mélange", arXiv 2404.14527, for GPU types as columns.

Data
    Columns (replica configurations on host classes, with a rate each), host classes
    with their packings, the network between leaf switches, bytes of KV a request.
Variables
    x_c replicas of each column and y_kp hosts of class k with packing p (integer);
    the rate R; requests/s that each class prefills and decodes, sends to its leaf and
    takes from it; KV traffic on each link between leaves.
Constraints
    One function each, below.
Objective
    Set by `planner.search.provisioning.optimum`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pulp

from clusters.fields import spec
from planner.search.provisioning.columns import Column
from planner.search.provisioning.hosts import HostClass, packings
from planner.search.provisioning.network import KvNetwork
from planner.search.provisioning.splits import HostSplits, is_narrow, splits_of
from planner.simulator.system import Phase

HOSTS, GPUS, WIDTH, LINK = "hosts_", "gpus_", "width_", "link_"
SPLITS, NICS = "splits_", "nics_"
BUDGET, POWER, AVAILABLE = "budget", "power", "available_"
"""Names of the constraints whose prices are told, many with what they limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramData:
    """What the programme is made from."""

    classes: tuple[HostClass, ...] = spec("Host classes.")
    columns: tuple[Column, ...] = spec("Columns of one kind of deployment.")
    network: KvNetwork = spec("Links between leaves, and bytes a request.")
    max_gpus: int | None = spec("Most GPUs.", unit="GPUs", default=None)
    max_replicas: int | None = spec(
        "Most replicas of a phase.", unit="replicas", default=None
    )
    pool_sizes: Mapping[Phase, tuple[int, int | None]] = spec(
        "Fewest and most replicas of a phase; None: any number.",
        unit="replicas",
        default_factory=dict,
    )
    max_usd_per_hour: float | None = spec("Budget.", unit="usd/h", default=None)
    max_power_w: float | None = spec("Most power.", unit="W", default=None)
    available_gpus: Mapping[str, int] = spec(
        "GPUs of a type to be had at most.", unit="GPUs", default_factory=dict
    )

    def of(self, phase: Phase, host_class: int | None = None) -> list[int]:
        """Indices of the columns of a phase (on one class)."""
        return [
            index
            for index, column in enumerate(self.columns)
            if column.shape.phase is phase
            and (host_class is None or column.host_class == host_class)
        ]

    @property
    def narrow(self) -> tuple[int, ...]:
        """Classes whose hosts could make more KV caches than their NICs carry."""
        return tuple(
            index
            for index, hosts in enumerate(self.classes)
            if is_narrow(
                hosts,
                [column for column in self.columns if column.host_class == index],
                self.network.requests_per_s(hosts.nic_bytes_per_s),
            )
        )

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Phases that columns have."""
        return tuple(p for p in Phase if self.of(p))


class Program:
    """The variables and constraints of the programme; the objective comes later."""

    def __init__(self, data: ProgramData) -> None:
        self.data = data
        self.model = pulp.LpProblem("provisioning", pulp.LpMaximize)
        self.packed: dict[int, list[tuple[dict[int, int], pulp.LpVariable]]] = {}
        self.splits: dict[int, HostSplits] = {}
        self.rate_rps = self.model.add_variable("rate_rps", lowBound=0)
        self.counts = [
            self.model.add_variable(f"replicas_{index}", lowBound=0, cat=pulp.LpInteger)
            for index in range(len(data.columns))
        ]
        self.gpus = pulp.lpSum(
            column.num_gpus * count
            for column, count in zip(data.columns, self.counts, strict=True)
        )
        for index in range(len(data.classes)):
            self.pack(index)
        self.limit()
        self.size_pools()
        if data.phases == (Phase.AGGREGATED,):
            self.serve_together()
        else:
            self.serve_apart()

    def served_by(self, columns: Sequence[int]) -> pulp.LpAffineExpression:
        """Rate of the replicas of some columns: sum of rate_c * x_c."""
        return pulp.lpSum(
            self.data.columns[i].rate_rps * self.counts[i] for i in columns
        )

    def usd_per_hour(self) -> pulp.LpAffineExpression | None:
        """Price of the GPUs in use; None when a price is not known."""
        return self._sum_over_gpus([k.usd_per_gpu_hour for k in self.data.classes])

    def power_w(self) -> pulp.LpAffineExpression | None:
        """Board power limits of the GPUs in use; None when one is not known."""
        return self._sum_over_gpus([k.power_w_per_gpu for k in self.data.classes])

    def _sum_over_gpus(
        self, each_of_class: Sequence[float | None]
    ) -> pulp.LpAffineExpression | None:
        """What a GPU of each class counts, times the GPUs in use."""
        terms = []
        for column, count in zip(self.data.columns, self.counts, strict=True):
            each = each_of_class[column.host_class]
            if each is None:
                return None
            terms.append(each * column.num_gpus * count)
        return pulp.lpSum(terms)

    def pack(self, index: int) -> None:
        """Groups of each width fit the hosts of a class.

        sum_c groups_cw * x_c <= sum_p groups_pw * y_kp, and sum_p y_kp <= hosts_k.
        """
        on_class = self._on_class(index)
        widths = sorted({column.width for column, _ in on_class}, reverse=True)
        if not widths:
            return
        hosts = self.data.classes[index]
        listed = None if _divide(widths) else packings(hosts.num_gpus, widths)
        if listed is None:
            self.pack_by_width(index, widths)
            return
        self.packed[index] = [
            (
                dict(zip(widths, packing, strict=True)),
                self.model.add_variable(
                    f"hosts_{index}_{place}", 0, cat=pulp.LpInteger
                ),
            )
            for place, packing in enumerate(listed)
        ]
        used = pulp.lpSum(hosts_of for _, hosts_of in self.packed[index])
        self.model += used <= hosts.num_hosts, f"{HOSTS}{index}"
        for width in widths:
            groups = pulp.lpSum(
                c.num_groups * x for c, x in on_class if c.width == width
            )
            room = pulp.lpSum(held[width] * y for held, y in self.packed[index])
            self.model += groups <= room

    def pack_by_width(self, index: int, widths: Sequence[int]) -> None:
        """What every packing of the hosts obeys, without listing them.

        For every width w, the groups at least as wide, counted in multiples of w, are
        at most hosts_k * floor(gpus_k / w); all GPUs in use are at most those of the
        class. Enough where each width divides the next, a relaxation elsewhere.
        """
        hosts, on_class = self.data.classes[index], self._on_class(index)
        for width in widths:
            if width == 1:
                break  # the row of the GPUs says it
            groups = pulp.lpSum(
                (c.width // width) * c.num_groups * x
                for c, x in on_class
                if c.width >= width
            )
            most = hosts.num_hosts * (hosts.num_gpus // width)
            self.model += groups <= most, f"{WIDTH}{index}_{width}"
        used = pulp.lpSum(column.num_gpus * count for column, count in on_class)
        most = hosts.num_hosts * hosts.num_gpus
        self.model += used <= most, f"{GPUS}{index}"

    def _on_class(self, index: int) -> list[tuple[Column, pulp.LpVariable]]:
        return [
            (column, count)
            for column, count in zip(self.data.columns, self.counts, strict=True)
            if column.host_class == index
        ]

    def limit(self) -> None:
        """GPUs, replicas of each phase, $/h and W stay within the plan's limits.

        An unknown price or power allows nothing. Of a type no more GPUs run replicas
        than are available: sum over its classes of gpus_c * x_c <= available.
        """
        if self.data.max_gpus is not None:
            self.model += self.gpus <= self.data.max_gpus
        if self.data.max_replicas is not None:
            for phase in self.data.phases:
                replicas = pulp.lpSum(self.counts[i] for i in self.data.of(phase))
                self.model += replicas <= self.data.max_replicas
        for most, used, name in (
            (self.data.max_usd_per_hour, self.usd_per_hour(), BUDGET),
            (self.data.max_power_w, self.power_w(), POWER),
        ):
            if most is not None:
                self.model += (self.gpus <= 0) if used is None else used <= most, name
        for place, (gpu_type, most) in enumerate(self.data.available_gpus.items()):
            of_type = [
                column.num_gpus * count
                for column, count in zip(self.data.columns, self.counts, strict=True)
                if column.shape.gpu_type == gpu_type
            ]
            if of_type:
                self.model += pulp.lpSum(of_type) <= most, f"{AVAILABLE}{place}"

    def size_pools(self) -> None:
        """Each phase has the number of replicas that its rates are for.

        fewest <= sum_c x_c <= most, over the columns of the phase.
        """
        for phase, (fewest, most) in self.data.pool_sizes.items():
            replicas = pulp.lpSum(self.counts[i] for i in self.data.of(phase))
            self.model += replicas >= fewest
            if most is not None:
                self.model += replicas <= most

    def serve_together(self) -> None:
        """Aggregated replicas serve the rate: R <= sum_c rate_c x_c."""
        self.model += self.rate_rps <= self.served_by(self.data.of(Phase.AGGREGATED))

    def serve_apart(self) -> None:
        """Each class prefills and decodes within its replicas; both add up to R."""
        prefilled, decoded = [], []
        narrow = self.data.narrow
        for index in range(len(self.data.classes)):
            both = []
            for phase in (Phase.PREFILL, Phase.DECODE):
                served = self.model.add_variable(f"{phase}_{index}", lowBound=0)
                self.model += served <= self.served_by(self.data.of(phase, index))
                both.append(served)
            prefilled.append(both[0])
            decoded.append(both[1])
            if index in narrow:
                self.tell_hosts_apart(index, *both)
        self.model += pulp.lpSum(prefilled) == self.rate_rps
        self.model += pulp.lpSum(decoded) == self.rate_rps
        self.carry(prefilled, decoded)

    def tell_hosts_apart(
        self, index: int, prefilled: pulp.LpVariable, decoded: pulp.LpVariable
    ) -> None:
        """Where a host could make more than its NICs carry, it has no others.

        What the class prefills is the sum over its splits, and what it decodes.
        """
        hosts, on_class = self.data.classes[index], self._on_class(index)
        nic_rps = self.data.network.requests_per_s(hosts.nic_bytes_per_s)
        if nic_rps is None or hosts.num_hosts < 2:
            return
        splits = splits_of(hosts, [column for column, _ in on_class])
        if not splits:
            return
        told = HostSplits(self.model, f"{SPLITS}{index}", hosts, on_class, nic_rps)
        told.build(splits)
        self.splits[index] = told
        self.model += prefilled == pulp.lpSum(told.prefilled)
        self.model += decoded == pulp.lpSum(told.decoded)

    def carry(
        self, prefilled: list[pulp.LpVariable], decoded: list[pulp.LpVariable]
    ) -> None:
        """KV caches cross NICs and the links between leaves within their rates.

        What a class prefills stays on its own hosts or goes to the leaf: for every
        leaf, sent by its classes + arriving from other vertices = taken by its classes
        + leaving; a class sends at most its NICs carry, a link what it carries.
        """
        network = self.data.network
        balance: dict[str, list[pulp.LpAffineExpression]] = {
            name: [] for name in network.vertices
        }
        for index, hosts in enumerate(self.data.classes):
            most = network.requests_per_s(hosts.nic_bytes_per_s * hosts.num_hosts)
            sent = self.model.add_variable(f"sent_{index}", 0, most)
            taken = self.model.add_variable(f"taken_{index}", 0, most)
            self.model += prefilled[index] - sent == decoded[index] - taken
            balance[network.vertex_of(hosts.leaf)].append(sent - taken)
        for number, link in enumerate(network.links):
            flow = self.model.add_variable(f"flow_{number}", lowBound=0)
            most = network.requests_per_s(link.bytes_per_s)
            if most is not None:
                self.model += flow <= most, f"{LINK}{number}"
            balance[link.source].append(-flow)
            balance[link.target].append(flow)
        for terms in balance.values():
            self.model += pulp.lpSum(terms) == 0


def _divide(widths: Sequence[int]) -> bool:
    """Whether each width divides the next wider one (`widths` in falling order)."""
    return all(wide % narrow == 0 for wide, narrow in pairwise(widths))
