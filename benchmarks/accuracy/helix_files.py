"""Files of the Helix reference: clusters, throughput tables, layouts, published rates.

A folder has `*.ini` clusters and machine profiles, and JSON files with layouts and
throughput tables (`layouts`, `node_throughput_tables`) or with published figures (a
list). In them `mbps` and `gbps` are 1e6 and 1e9 **bytes** per second.
"""

import json
from collections.abc import Container, Iterable, Sequence
from configparser import ConfigParser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from planner.pipelines.fleet import Fleet, MachineKind
from planner.pipelines.layout import Layout, Segment

UNITS = {"Byte": 1.0, "kbps": 1e3, "mbps": 1e6, "gbps": 1e9}
UNITS |= {"KB": 1e3, "MB": 1e6, "GB": 1e9, "Sec": 1e3, "MilliSec": 1.0}
DEFAULT_NIC_BYTES_PER_S = 10e9
DEFAULT_LINK = (1e9, 1.0)
"""Rate and latency (ms) of every link where a layout comes without a cluster file."""


@dataclass(frozen=True, kw_only=True)
class ClusterFile:
    """A cluster: the kind of every machine, and the links (rate, latency in ms)."""

    name: str
    kinds: tuple[str, ...]
    links: dict[tuple[str, str], tuple[float, float]]

    def link(self, source: str, target: str) -> tuple[float, float]:
        """A link as written, or the one written for the other direction."""
        found = self.links.get((source, target)) or self.links.get((target, source))
        return found or (0.0, 0.0)

    def only(self, kinds: Container[str]) -> "ClusterFile":
        """The machines of these kinds, numbered anew, and the links between them."""
        kept = [str(i) for i, kind in enumerate(self.kinds) if kind in kinds]
        number = {old: str(new) for new, old in enumerate(kept)}
        number |= {"source": "source", "sink": "sink"}
        return ClusterFile(
            name=self.name,
            kinds=tuple(self.kinds[int(i)] for i in kept),
            links={
                (number[a], number[b]): link
                for (a, b), link in self.links.items()
                if a in number and b in number
            },
        )

    @property
    def counts(self) -> dict[str, int]:
        """Machines of each kind, in order of first appearance."""
        return {kind: self.kinds.count(kind) for kind in dict.fromkeys(self.kinds)}


@dataclass(kw_only=True)
class Reference:
    """Everything found in the files."""

    clusters: dict[str, ClusterFile] = field(default_factory=dict)
    nics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    layouts: list[dict[str, Any]] = field(default_factory=list)
    published: list[dict[str, Any]] = field(default_factory=list)


def read_reference(paths: Sequence[Path]) -> Reference:
    """Read files, and folders with all the files below them.

    Without a cluster among them, those below the folder of each file are read too.
    """
    files = _files(paths)
    if not any(file.suffix == ".ini" for file in files):
        beside = _files({file.parent for file in files})
        files += [file for file in beside if file.suffix == ".ini"]
    reference = Reference()
    for file in files:
        if file.suffix == ".ini":
            _add_ini(reference, file)
            continue
        data = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(data, list):
            reference.published += data
        else:
            reference.layouts += data.get("layouts", [])
            reference.tables |= data.get("node_throughput_tables", {})
    return reference


def _files(paths: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [file for file in inside if file.suffix in {".ini", ".json"}]
    return sorted(found)


def _add_ini(reference: Reference, file: Path) -> None:
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(file.read_text(encoding="utf-8"))
    if "NodeNames" not in parser:
        for name in parser.sections():
            reference.nics[name] = quantity(parser[name]["inbound_nic_speed"])
        return
    num = int(parser["NodeNames"]["total_compute_nodes"])
    kinds = tuple(parser[f"ComputeNode-{i}"]["type"] for i in range(num))
    links = {}
    for name in parser.sections():
        if name.startswith("Link-"):
            _, source, target = name.split("-")
            section = parser[name]
            rate, latency = quantity(section["bandwidth"]), quantity(section["latency"])
            links[source, target] = (rate, latency)
    cluster = ClusterFile(name=file.stem, kinds=kinds, links=links)
    reference.clusters[cluster.name] = cluster


def quantity(text: str) -> float:
    """A number with a unit, e.g. ``10 * gbps``; times in ms."""
    number, _, unit = (part.strip() for part in text.partition("*"))
    return float(number) * (UNITS[unit] if unit else 1.0)


# --- Fleets ---------------------------------------------------------------------------


def fleet_of(
    reference: Reference, table: dict[str, Any], cluster: ClusterFile | None
) -> Fleet:
    """The machines of a throughput table on a cluster's links (None: all equal)."""
    names = cluster.kinds if cluster else _listed(table["machines"])
    kinds = {
        name: MachineKind(
            name=name,
            tokens_per_s=tuple(rates),
            nic_bytes_per_s=reference.nics.get(name, DEFAULT_NIC_BYTES_PER_S),
        )
        for name, rates in table["tok_s_by_layers"].items()
    }
    rates, latencies = _link_arrays(len(names), cluster)
    return Fleet(
        kinds=tuple(kinds[name] for name in names),
        num_layers=table["layers"],
        token_bytes=table["token_bytes"],
        activation_bytes=table["activation_bytes"],
        coordinator_bytes_per_s=DEFAULT_NIC_BYTES_PER_S,
        link_bytes_per_s=rates,
        link_latency_ms=latencies,
    )


def _listed(counts: dict[str, int]) -> tuple[str, ...]:
    return tuple(name for name, count in counts.items() for _ in range(count))


def _link_arrays(
    num: int, cluster: ClusterFile | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rates and latencies, coordinator last; shape ``(num + 1, num + 1)``."""
    rates = np.full((num + 1, num + 1), DEFAULT_LINK[0])
    latencies = np.full((num + 1, num + 1), DEFAULT_LINK[1])
    if cluster is not None:
        outs, ins = ([*map(str, range(num)), end] for end in ("source", "sink"))
        for row, source in enumerate(outs):
            for column, target in enumerate(ins):
                if row != column:
                    link = cluster.link(source, target)
                    rates[row, column], latencies[row, column] = link
    np.fill_diagonal(rates, 0.0)
    np.fill_diagonal(latencies, 0.0)
    return rates, latencies


# --- Layouts --------------------------------------------------------------------------


def table_of(reference: Reference, layout: dict[str, Any]) -> str | None:
    """The throughput table of a layout's model and machines."""
    for name, table in reference.tables.items():
        is_model = name.lower().startswith(layout["model"].lower())
        if is_model and table["machines"] == layout["machines"]:
            return name
    return None


def cluster_of(reference: Reference, layout: dict[str, Any]) -> ClusterFile | None:
    """The cluster a layout was made on: the same machines, met in the same order.

    Layouts list their machines in the order of their cluster, and that tells clusters
    of the same machines apart.
    """
    machines = list(layout["machines"].items())
    for cluster in reference.clusters.values():
        if list(cluster.counts.items()) == machines:
            return cluster
    return None


def recorded_table(layout: dict[str, Any]) -> dict[str, Any]:
    """A throughput table made of the rates written beside the segments themselves.

    Only the numbers of layers in use are known; others get the rate of the next.
    """
    rates: dict[str, dict[int, float]] = {}
    for kind, first, end, rate in layout["segments"]:
        rates.setdefault(kind, {})[end - first] = rate
    by_layers = {
        kind: [
            known[min(k for k in known if k >= held)]
            for held in range(1, max(known) + 1)
        ]
        for kind, known in rates.items()
    }
    hidden = {60: 6656, 80: 8192}
    num_layers = max(end for _, _, end, _ in layout["segments"])
    return {
        "layers": num_layers,
        "machines": layout["machines"],
        "token_bytes": 2,
        "activation_bytes": 2 * hidden[num_layers],
        "tok_s_by_layers": by_layers,
    }


def placed(layout: dict[str, Any], fleet: Fleet) -> Layout:
    """The layout on the machines of a fleet.

    The file tells the kind of a segment's machine, not which one. Machines of a kind
    are handed out from the last to the first along the layers, and a segment's second
    machine comes after every segment has its first. That is how the released code
    numbers them, and with it all recorded flows come out on unequal links too.
    """
    left = {name: list(fleet.of_kind(name)) for name in fleet.kind_names}
    copies: dict[tuple[Any, ...], int] = {}
    turns = []
    for kind, first, end, _ in layout["segments"]:
        turn = copies.get((kind, first, end), 0)
        copies[kind, first, end] = turn + 1
        turns.append((turn, first, end, kind))
    return Layout.of(
        Segment(machine=left[kind].pop(), first=first, end=end)
        for _, first, end, kind in sorted(turns, key=lambda turn: turn[:3])
    )
