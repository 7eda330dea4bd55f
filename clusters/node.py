"""Node types (instance types) and the nodes of a cluster.

A node type says which GPUs a machine has and how they are joined: by an NVSwitch, by
NVLink bridges between pairs, by a mesh of direct links, or by PCIe only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from clusters.fields import InputError, check_fields, spec
from clusters.gpu import GpuType, Source, find_source
from clusters.mapping import fields_to_mapping, from_fields
from clusters.shipped import shipped_entries, shipped_entry


class Interconnect(StrEnum):
    """How the GPUs of a node reach each other (PCIe is always there too)."""

    NVSWITCH = "nvswitch"
    NVLINK_PAIRS = "nvlink_pairs"
    MESH = "mesh"
    PCIE = "pcie"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLink:
    """A direct link between two GPUs of a node (NVLink or Infinity Fabric)."""

    between: tuple[int, int] = spec("Local indices of the two GPUs.")
    bytes_per_s: float = spec("Rate in one direction.", unit="bytes/s", gt=0)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeType:
    """One kind of machine.

    PCIe switches hold `gpus_per_pcie_switch` GPUs each and share the NICs evenly; if
    the NICs do not divide evenly they hang on the host bridges (sockets) instead.
    NICs at the same place are used together, as one bundle.
    """

    name: str = spec("Name in the catalogue, or one of your own.")
    gpu: GpuType = spec("Its GPUs (a name of the catalogue, or all fields).")
    num_gpus: int = spec("Number of GPUs.", unit="1", ge=1, le=1024)
    interconnect: Interconnect = spec("How its GPUs reach each other.")
    nvlink_pairs: tuple[tuple[int, int], ...] = spec(
        "Bridged GPU pairs, at the full NVLink rate.", default=()
    )
    gpu_links: tuple[GpuLink, ...] = spec(
        "Direct links of a mesh; empty: one from each GPU to each other.", default=()
    )
    gpus_per_pcie_switch: int = spec(
        "GPUs that share a PCIe switch and its link to the host.",
        unit="1",
        ge=1,
        default=1,
    )
    num_sockets: int = spec("CPU sockets (host bridges).", unit="1", ge=1, default=1)
    socket_bytes_per_s: float = spec(
        "Link between sockets, one direction; the default is one UPI link of "
        "10.4 GT/s (Intel Xeon Scalable brief, 2017).",
        unit="bytes/s",
        gt=0,
        default=20.8e9,
    )
    num_nics: int = spec("NICs that carry GPU traffic.", unit="1", ge=0, default=1)
    nic_bytes_per_s: float = spec(
        "Rate of one NIC, one direction.", unit="bytes/s", gt=0, default=12.5e9
    )
    nvlink_latency_ms: float = spec(
        "NVLink or NVSwitch, GPU to GPU (typical; override).",
        unit="ms",
        ge=0,
        default=0.002,
    )
    pcie_latency_ms: float = spec(
        "One PCIe hop (typical; override).", unit="ms", ge=0, default=0.001
    )
    nic_latency_ms: float = spec(
        "Through a NIC to its leaf switch (typical RDMA; override).",
        unit="ms",
        ge=0,
        default=0.002,
    )
    usd_per_hour: float | None = spec(
        "On-demand price of the machine; null: unknown.",
        unit="usd/h",
        gt=0,
        default=None,
    )
    sources: tuple[Source, ...] = spec("Where the numbers come from.", default=())

    def __post_init__(self) -> None:
        check_fields(self)
        pairs = [("nvlink_pairs", pair) for pair in self.nvlink_pairs]
        pairs += [("gpu_links", link.between) for link in self.gpu_links]
        for key, (a, b) in pairs:
            if a == b or not (0 <= a < self.num_gpus and 0 <= b < self.num_gpus):
                form = f"two different GPUs between 0 and {self.num_gpus - 1}"
                raise InputError(key, [a, b], form)
        if self.interconnect is Interconnect.NVLINK_PAIRS and not self.nvlink_pairs:
            raise InputError("nvlink_pairs", [], "at least one pair, e.g. [[0, 1]]")
        if self.nvlink_pairs and self.interconnect is not Interconnect.NVLINK_PAIRS:
            form = "'nvlink_pairs', as pairs are given"
            raise InputError("interconnect", str(self.interconnect), form)
        if self.gpu_links and self.interconnect is not Interconnect.MESH:
            form = "'mesh', as gpu_links are given"
            raise InputError("interconnect", str(self.interconnect), form)
        self._check_nvlink_rate()

    def _check_nvlink_rate(self) -> None:
        has_links = self.interconnect is not Interconnect.PCIE and not self.gpu_links
        if has_links and self.num_gpus > 1 and self.gpu.nvlink_bytes_per_s == 0:
            form = f"'pcie', as {self.gpu.name} has no NVLink"
            raise InputError("interconnect", str(self.interconnect), form)

    @classmethod
    def load(cls, name: str) -> Self:
        """The node type of that name in the catalogue.

        Raises
        ------
        InputError
            Naming the nearest entry, if there is none of that name.
        """
        return from_fields(cls, shipped_entry("instances", name))

    @staticmethod
    def names() -> tuple[str, ...]:
        """Names in the catalogue."""
        return tuple(shipped_entries("instances"))

    @classmethod
    def from_file_form(cls, data: object, *, file: str | None = None) -> Self:
        """A name of the catalogue, all fields, or ``base:`` a name and what differs."""
        if isinstance(data, str):
            return cls.load(data)
        if isinstance(data, Mapping) and "base" in data:
            name = data["base"]
            try:
                base = shipped_entry("instances", str(name))
            except InputError as error:
                raise error.within("base") from None
            changes = {key: value for key, value in data.items() if key != "base"}
            # The sources of the base do not speak for what is changed.
            given = {"name": f"{name} (changed)", "sources": [], **changes}
            return from_fields(cls, _overlaid(base, given), file=file)
        return from_fields(cls, data, file=file)

    def to_file_form(self) -> object:
        """Its name if it is the catalogue's entry, otherwise all fields."""
        if self.name in self.names() and self == self.load(self.name):
            return self.name
        return fields_to_mapping(self)

    def source_of(self, field: str) -> Source | None:
        """Where the number in `field` comes from, or None if nobody said."""
        return find_source(self.sources, field)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine of a cluster."""

    name: str = spec("Name, unique in the cluster.")
    type: NodeType = spec("Its node type (a name of the catalogue, or fields).")
    gpus: tuple[GpuType, ...] = spec(
        "GPU in each slot, where they differ from the node type's.", default=()
    )
    rack: str | None = spec("Rack, i.e. the leaf switch above it.", default=None)
    nvlink_domain: str | None = spec(
        "Name of an NVLink domain that spans nodes (NVL72).", default=None
    )
    usd_per_hour: float | None = spec(
        "Price of this machine; null: its node type's.",
        unit="usd/h",
        gt=0,
        default=None,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.gpus and len(self.gpus) != self.type.num_gpus:
            form = f"{self.type.num_gpus} GPUs, one a slot of {self.type.name}"
            raise InputError("gpus", [gpu.name for gpu in self.gpus], form)
        if self.gpus == (self.type.gpu,) * self.type.num_gpus:
            object.__setattr__(self, "gpus", ())
        if self.nvlink_domain and self.type.interconnect is not Interconnect.NVSWITCH:
            form = "null, or a node type with an NVSwitch"
            raise InputError("nvlink_domain", self.nvlink_domain, form)

    @property
    def slots(self) -> tuple[GpuType, ...]:
        """GPU type in each slot, in local order."""
        return self.gpus or (self.type.gpu,) * self.type.num_gpus

    @property
    def price_usd_per_hour(self) -> float | None:
        """Price of the machine, or None where it is unknown."""
        own = self.usd_per_hour
        return self.type.usd_per_hour if own is None else own


def _overlaid(base: Mapping[str, object], given: dict[str, object]) -> object:
    """`base` with the given keys; one in another unit takes the place of its twin."""
    units = ("_bytes_per_s", "_gb_per_s", "_gbit_per_s", "_ms", "_us")
    merged = dict(base)
    for key in given:
        stem = next(
            (key.removesuffix(unit) for unit in units if key.endswith(unit)), ""
        )
        for unit in units if stem else ():
            merged.pop(stem + unit, None)
    return {**merged, **given}
