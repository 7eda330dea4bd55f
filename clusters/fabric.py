"""The network between nodes: racks under leaf switches, a spine, or explicit links."""

from dataclasses import dataclass

from clusters.fields import InputError, check_fields, spec


@dataclass(frozen=True, slots=True, kw_only=True)
class FabricLink:
    """A network link between two racks, two nodes, or a rack and a node."""

    between: tuple[str, str] = spec("Names of the racks or nodes it joins.")
    bytes_per_s: float = spec(
        "Rate in one direction; 0: down, as if it were not there.",
        unit="bytes/s",
        ge=0,
    )
    latency_ms: float = spec("One-way latency.", unit="ms", ge=0, default=0.001)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.between[0] == self.between[1]:
            form = "two different racks or nodes (a link to itself is a cycle)"
            raise InputError("between", list(self.between), form)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """How nodes reach each other.

    Without `links`, every rack has a leaf switch and a spine joins the leaves; nodes
    without a rack share one leaf. A leaf's link to the spine carries the sum of the
    NICs below it divided by `oversubscription_ratio`.

    With `links`, they are all there is above the leaves: nodes without a rack have
    a port of their own, which links may name.
    """

    oversubscription_ratio: float = spec(
        "NIC rate below a leaf over its rate to the spine.", unit="1", gt=0, default=1.0
    )
    leaf_port_bytes_per_s: float | None = spec(
        "Rate of a leaf port, if it is slower than the NIC on it.",
        unit="bytes/s",
        gt=0,
        default=None,
    )
    hop_latency_ms: float = spec(
        "Leaf to spine or back (typical; override).", unit="ms", ge=0, default=0.001
    )
    links: tuple[FabricLink, ...] = spec(
        "Explicit links in place of the spine; they form a tree.", default=()
    )
    allow_cycles: bool = spec(
        "Let links form cycles; traffic then takes the widest, then shortest way.",
        default=False,
    )
    allow_islands: bool = spec(
        "Let parts stand apart that nothing joins; KV caches stay within each.",
        default=False,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        seen: set[frozenset[str]] = set()
        for index, link in enumerate(self.links):
            ends = frozenset(link.between)
            if ends in seen:
                raise InputError(
                    f"links[{index}].between",
                    list(link.between),
                    "each pair once (add up the rates of parallel links)",
                )
            seen.add(ends)


def joined_parts(
    names: tuple[str, ...], links: tuple[FabricLink, ...], *, refuse_cycles: bool
) -> tuple[tuple[str, ...], ...]:
    """Names grouped by whether links that are up join them, in the order of `names`.

    Raises
    ------
    InputError
        With `refuse_cycles`, for the first link between names already joined.
    """
    parent = {name: name for name in names}

    def root_of(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for index, link in enumerate(links):
        if link.bytes_per_s == 0:
            continue
        first, second = (root_of(end) for end in link.between)
        if first == second and refuse_cycles:
            raise InputError(
                f"fabric.links[{index}].between",
                list(link.between),
                "links without a cycle (or allow_cycles: true)",
            )
        parent[first] = second
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(root_of(name), []).append(name)
    return tuple(tuple(members) for members in parts.values())
