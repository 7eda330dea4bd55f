"""Cluster: the machines there are, and the network between them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from clusters.fabric import Fabric, joined_parts
from clusters.fields import InputError, check_fields, spec
from clusters.gpu import GpuType
from clusters.mapping import from_fields, from_mapping, nearest, to_mapping
from clusters.node import Node, NodeType
from clusters.serde import read_mapping
from clusters.shipped import shipped_clusters

if TYPE_CHECKING:
    from clusters.topology import Topology

DEFAULT_RACK = "rack0"
"""Name of the leaf above nodes without a rack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """One entry of `nodes` in a cluster file: `count` machines alike."""

    type: NodeType = spec("Node type (a name of the catalogue, or fields).")
    count: int = spec("Number of such machines.", unit="1", ge=1, le=10_000, default=1)
    name: str | None = spec(
        "Name; with a count above 1 a prefix: name-0, name-1, ...", default=None
    )
    gpus: tuple[GpuType, ...] = spec("GPU in each slot, where they differ.", default=())
    rack: str | None = spec("Rack of all of them.", default=None)
    nvlink_domain: str | None = spec("NVLink domain that spans them.", default=None)
    usd_per_hour: float | None = spec(
        "Price of one machine; null: its node type's.", unit="usd/h", gt=0, default=None
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Machines and the network between them."""

    name: str = spec("Name of the cluster.", default="cluster")
    description: str = spec("What it is, in a line.", default="")
    nodes: tuple[Node, ...] = spec("Its machines, in order.")
    fabric: Fabric = spec("Network between nodes.", default=Fabric())
    _topology: Any = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if not self.nodes:
            raise InputError("nodes", [], "at least one node")
        seen: dict[str, int] = {}
        for index, node in enumerate(self.nodes):
            if node.name in seen:
                form = f"a name that nodes[{seen[node.name]}] does not have"
                raise InputError(f"nodes[{index}].name", node.name, form)
            seen[node.name] = index
        self._check_links()

    def _check_links(self) -> None:
        links = self.fabric.links
        known = self.leaves
        for index, link in enumerate(links):
            for end in link.between:
                if end not in known:
                    form = f"racks or nodes without a rack ({nearest(end, known)})"
                    key = f"fabric.links[{index}].between"
                    raise InputError(key, list(link.between), form)
        joined_parts(known, links, refuse_cycles=not self.fabric.allow_cycles)

    @classmethod
    def load(cls, name_or_path: str | Path) -> Self:
        """An example cluster by name, or a cluster file by path, checked as a whole.

        Raises
        ------
        InputError
            If there is no such cluster, or its file cannot be used.
        """
        examples = shipped_clusters()
        path = examples.get(str(name_or_path), Path(name_or_path))
        is_name = path.suffix not in (".yaml", ".yml", ".json")
        if is_name and not path.exists():
            hint = nearest(name_or_path, examples)
            form = f"a cluster file or an example ({hint})"
            raise InputError("", str(name_or_path), form)
        data = {"name": path.stem, **read_mapping(path)}
        return from_mapping(cls, data, file=str(path))

    @staticmethod
    def names() -> tuple[str, ...]:
        """Names of the example clusters."""
        return tuple(shipped_clusters())

    @classmethod
    def from_file_form(cls, data: object, *, file: str | None = None) -> Self:
        """A name or path (from the folder of `file`), or a mapping with the nodes."""
        if isinstance(data, str):
            beside = Path(file).parent / data if file else Path(data)
            return cls.load(beside if beside.is_file() else data)
        if not isinstance(data, Mapping):
            raise InputError("", data, "a cluster's name or path, or a mapping")
        content = from_fields(ClusterFile, data, file=file)
        cluster = cls(
            name=content.name,
            description=content.description,
            nodes=_expand(content.nodes),
            fabric=content.fabric,
        )
        cluster.validate()
        return cluster

    def to_file_form(self) -> dict[str, Any]:
        """The mapping of a cluster file, one entry a node; defaults are left out."""
        nodes = []
        for node in self.nodes:
            entry = to_mapping(node)
            nodes.append({k: v for k, v in entry.items() if v not in (None, [])})
        return {
            "name": self.name,
            "description": self.description,
            "nodes": nodes,
            "fabric": to_mapping(self.fabric),
        }

    @property
    def num_gpus(self) -> int:
        """Number of GPUs."""
        return sum(node.type.num_gpus for node in self.nodes)

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names of the leaf switches (racks, or ports of nodes), in node order."""
        return tuple(dict.fromkeys(self.leaf_of(node) for node in self.nodes))

    @property
    def topology(self) -> "Topology":
        """Its topology graph (built on first use)."""
        if self._topology is None:
            from clusters.topology import Topology

            object.__setattr__(self, "_topology", Topology(self))
        topology: Topology = self._topology
        return topology

    def leaf_of(self, node: Node) -> str:
        """Name of the leaf switch (or own port) that a node's NICs are on."""
        if node.rack is not None:
            return node.rack
        return node.name if self.fabric.links else DEFAULT_RACK

    def gpu_types(self) -> tuple[GpuType, ...]:
        """Its distinct GPU types, in order of first appearance."""
        # Nodes of one type are told by identity first: hashing thousands takes long.
        unlike: dict[tuple[int, tuple[GpuType, ...]], Node] = {}
        for node in self.nodes:
            unlike.setdefault((id(node.type), node.gpus), node)
        found = (gpu for node in unlike.values() for gpu in node.slots)
        return tuple(dict.fromkeys(found))

    def usd_per_hour(self, gpu_indices: Iterable[int]) -> float | None:
        """Price of some GPUs: each costs its node's price over the GPUs of the node.

        A node that is used in part costs in proportion, as if its other GPUs served
        someone else. None if the price of any of these nodes is unknown.
        """
        shares: list[float | None] = []
        for node in self.nodes:
            price = node.price_usd_per_hour
            share = None if price is None else price / node.type.num_gpus
            shares += [share] * node.type.num_gpus
        total = 0.0
        for index in gpu_indices:
            share = shares[index]
            if share is None:
                return None
            total += share
        return total

    def power_w(self, gpu_indices: Iterable[int]) -> float | None:
        """Board power limits of some GPUs together; None if one is not known."""
        limits = [self.topology.gpu(index).type.tdp_w for index in gpu_indices]
        known = [limit for limit in limits if limit is not None]
        return sum(known) if len(known) == len(limits) else None

    def validate(self) -> None:
        """Check that every node can reach every other, unless islands are allowed.

        Raises
        ------
        InputError
            Naming a node that stands alone, or parts that no link joins.
        """
        domains = {node.nvlink_domain for node in self.nodes}
        if len(self.nodes) == 1 or (len(domains) == 1 and None not in domains):
            return
        if self.fabric.allow_islands:
            return
        for index, node in enumerate(self.nodes):
            if node.type.num_nics == 0:
                key = f"nodes[{index}].type.num_nics"
                form = "at least 1 in a cluster of several nodes"
                raise InputError(key, 0, f"{form} (or fabric.allow_islands: true)")
        if not self.fabric.links:
            return
        parts = joined_parts(self.leaves, self.fabric.links, refuse_cycles=False)
        if len(parts) > 1:
            shown = [part[0] for part in parts]
            form = (
                f"links that join all racks and nodes; {shown} are not joined (or "
                "allow_islands: true)"
            )
            raise InputError("fabric.links", len(self.fabric.links), form)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFile:
    """The keys of a cluster file."""

    name: str = spec("Name of the cluster.", default="cluster")
    description: str = spec("What it is, in a line.", default="")
    nodes: tuple[NodeGroup, ...] = spec("Its machines.")
    fabric: Fabric = spec("Network between nodes.", default=Fabric())


def _expand(groups: tuple[NodeGroup, ...]) -> tuple[Node, ...]:
    """One node a machine; unnamed ones are called node0, node1, ... by position."""
    shared = [f.name for f in fields(Node) if f.name != "name"]
    nodes: list[Node] = []
    for entry, group in enumerate(groups):
        for position in range(group.count):
            name = f"node{len(nodes)}"
            if group.name is not None:
                name = group.name if group.count == 1 else f"{group.name}-{position}"
            values = {key: getattr(group, key) for key in shared}
            try:
                nodes.append(Node(name=name, **values))
            except InputError as error:
                raise error.within(f"nodes[{entry}]") from None
    return tuple(nodes)
