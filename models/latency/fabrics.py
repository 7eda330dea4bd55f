"""Which measured fabric stands for a ring of a cluster: by its links, not by its GPUs.

A collective on links of some kind and rate takes what it took on the measured links of
that kind whose rate is nearest, at the ring's own rate. Networks between nodes were
measured on few systems, which serve all.
"""

import math
from collections.abc import Iterable, Mapping

from clusters.links import GroupLink, LinkKind
from models.latency.fit_file import load_fit, shipped_systems
from models.latency.operators.collective import Collective, CollectiveModel

Fabrics = Mapping[Collective, CollectiveModel]
"""Collectives measured on links like a ring's; the others come from physics."""
_SAME_RATE = math.log(1.2)
"""Link rates within this factor count as the same fabric."""
_EXPERT_NETWORKS = (("h100_sxm", "sglang"), ("h200_sxm", "sglang"))
_NETWORKS = {
    Collective.ALL_REDUCE: (("a100_sxm", "vidur"),),
    Collective.EXPERT_DISPATCH: _EXPERT_NETWORKS,
    Collective.EXPERT_COMBINE: _EXPERT_NETWORKS,
}
"""Systems and engines whose collectives were measured between nodes."""
_LOW_LATENCY = "low_latency"


def fabrics_of(
    ring: GroupLink, engine: str, system: str, *, decode: bool = False
) -> Fabrics:
    """All collectives on the fabrics nearest to `ring`, of `engine` on `system`.

    With `decode` kernels of low latency come before the others.
    """
    found = dict[Collective, CollectiveModel]()
    for op in Collective:
        model = fabric_of(op, ring, engine, system, low_latency=decode)
        model = model or fabric_of(op, ring, engine, system)
        if model is not None:
            found[op] = model
    return found


def fabric_of(
    op: Collective,
    ring: GroupLink,
    engine: str,
    system: str,
    *,
    low_latency: bool = False,
) -> CollectiveModel | None:
    """The measured fabric nearest to the ring, the own system's if it is as near."""
    if ring.kind is LinkKind.NETWORK:
        return fabric_for(
            ring, _measured(op, _NETWORKS.get(op, ()), low_latency=low_latency), system
        )
    own = _measured(op, ((system, engine),), low_latency=low_latency)
    for model in own.values():
        # Reading nine other files to find a nearer fabric takes longer than planning.
        near = abs(math.log(model.link_bytes_per_s / ring.bytes_per_s)) < _SAME_RATE
        if model.kind is ring.kind and near:
            return model
    if not own:
        return None
    every = ((name, engine) for name in shipped_systems(engine))
    return fabric_for(ring, _measured(op, every, low_latency=low_latency), system)


def fabric_for(
    link: GroupLink, candidates: Mapping[str, CollectiveModel], own: str
) -> CollectiveModel | None:
    """The measured fabric of the same kind with the nearest link rate.

    Among equals the GPU's own system (`own`) wins; None for a kind nobody measured.
    """
    same = {
        key: model
        for key, model in sorted(candidates.items())
        if model.kind is link.kind
    }
    if not same:
        return None

    def distance(key: str) -> tuple[float, bool]:
        ratio = same[key].link_bytes_per_s / link.bytes_per_s
        return round(abs(math.log(ratio)), 2), key != own

    return same[min(same, key=distance)]


def _measured(
    op: Collective, where: Iterable[tuple[str, str]], *, low_latency: bool
) -> dict[str, CollectiveModel]:
    """Models of one collective by fabric, of kernels for decode or of the others."""
    found = dict[str, CollectiveModel]()
    for system, engine in where:
        for variant, model in load_fit(system, engine).variants(op).items():
            assert isinstance(model, CollectiveModel)
            fabric, _, kernel = variant.partition("/")
            if (kernel == _LOW_LATENCY) is low_latency:
                found[fabric] = model
    return found
