"""Baselines: layouts as systems without a planner of the whole would make them.

Reference
    Petals: Borzunov et al., "Distributed Inference and Fine-tuning of Large Language
    Models Over The Internet", NeurIPS 2023, arXiv 2312.08361, section 3.2.
    Swarm: Ryabinin et al., "SWARM Parallelism", ICML 2023, arXiv 2301.11529,
    section 3.2. Separate pipelines: what Mei et al., "Helix", ASPLOS 2025,
    arXiv 2406.01566, compare with besides.

Idea
    Petals and Swarm let every machine choose for itself: it joins where the layers are
    served worst. Separate pipelines cut the model evenly over machines of one kind. All
    three know how fast machines are, and nothing of links or of what others will do.

Steps
    Petals-like
    1. A machine holds as many layers as fit. It takes those whose rates, sorted, are
       the least of all intervals: the worst served first.
    2. Machines move likewise, one at a time, while the worst-served layer gains.
    Swarm-like
    1. Equal stages, as few as the machine with the least room can hold.
    2. A machine joins the stage with the lowest rate, and moves there from another
       while the slowest stage gains.
    Separate
    1. Machines of a kind in as many pipelines as hold the model, split evenly.

Differences from the papers
    - machines join in a given order (that of the fleet) instead of by chance
    - no machine fails, and none is measured: rates are those of the fleet

Assumes   nothing; a fleet that cannot hold the model gives None
Cost      O(machines^2 * layers) at most a move of each
Guarantee none: they are what a plan is compared with
"""

from collections.abc import Iterable

import numpy as np

from planner.pipelines.fleet import Fleet, FloatArray
from planner.pipelines.layout import Layout

_GAIN_FRAC = 1e-9
"""Gain of the slowest below which nobody moves."""

Spans = dict[int, tuple[int, int]]


def petals_like(fleet: Fleet) -> Layout | None:
    """Every machine takes the worst-served layers it can hold."""
    # 1. Joining.
    spans: Spans = {}
    for machine in range(fleet.num_machines):
        spans[machine] = _worst_served(fleet, machine, spans)
    # 2. Moving.
    for _ in range(fleet.num_machines):
        if not any(_moves(fleet, machine, spans) for machine in list(spans)):
            break
    return _whole(fleet, spans)


def _worst_served(fleet: Fleet, machine: int, spans: Spans) -> tuple[int, int]:
    """Layers of a machine: the interval whose sorted rates are the least."""
    length = min(fleet.kinds[machine].max_layers, fleet.num_layers)
    rates = _layer_rates(fleet, spans)
    first = min(
        range(fleet.num_layers - length + 1),
        key=lambda start: (sorted(rates[start : start + length]), start),
    )
    return first, first + length


def _moves(fleet: Fleet, machine: int, spans: Spans) -> bool:
    """Let a machine go where it is needed most, if the worst-served layer gains."""
    before = float(_layer_rates(fleet, spans).min())
    old = spans.pop(machine)
    spans[machine] = _worst_served(fleet, machine, spans)
    if float(_layer_rates(fleet, spans).min()) > before * (1.0 + _GAIN_FRAC):
        return True
    spans[machine] = old
    return False


def _layer_rates(fleet: Fleet, spans: Spans) -> FloatArray:
    """Rate at which each layer is served by those that hold it; shape ``(layers,)``."""
    rates = np.zeros(fleet.num_layers)
    for machine, (first, end) in spans.items():
        rates[first:end] += fleet.machine_tokens_per_s(machine, end - first)
    return rates


def swarm_like(fleet: Fleet) -> Layout | None:
    """Equal stages; every machine joins the slowest."""
    # 1. Stages.
    least_room = min(kind.max_layers for kind in fleet.kinds)
    num_stages = -(-fleet.num_layers // least_room)
    stages = _even(fleet.num_layers, num_stages)
    if num_stages > fleet.num_machines:
        return None
    # 2. Joining, and moving.
    members: list[list[int]] = [[] for _ in stages]
    for machine in range(fleet.num_machines):
        slowest = min(
            range(num_stages), key=lambda s: (_rate_of(fleet, members, stages, s), s)
        )
        members[slowest].append(machine)
    for _ in range(fleet.num_machines):
        if not _one_joins_the_slowest(fleet, members, stages):
            break
    spans = {m: stages[s] for s, team in enumerate(members) for m in team}
    return _whole(fleet, spans)


def _rate_of(
    fleet: Fleet, members: list[list[int]], stages: list[tuple[int, int]], stage: int
) -> float:
    first, end = stages[stage]
    return sum(fleet.machine_tokens_per_s(m, end - first) for m in members[stage])


def _one_joins_the_slowest(
    fleet: Fleet, members: list[list[int]], stages: list[tuple[int, int]]
) -> bool:
    """Move the machine whose move makes the slowest stage fastest, if any does."""
    rates = [_rate_of(fleet, members, stages, s) for s in range(len(stages))]
    slowest = int(np.argmin(rates))
    first, end = stages[slowest]
    best: tuple[float, int, int] | None = None
    for stage, team in enumerate(members):
        for machine in team if stage != slowest else ():
            other_first, other_end = stages[stage]
            left = list(rates)
            left[stage] -= fleet.machine_tokens_per_s(machine, other_end - other_first)
            left[slowest] += fleet.machine_tokens_per_s(machine, end - first)
            gained = min(left)
            is_gain = gained > rates[slowest] * (1.0 + _GAIN_FRAC)
            if is_gain and (best is None or gained > best[0]):
                best = (gained, stage, machine)
    if best is None:
        return False
    members[best[1]].remove(best[2])
    members[slowest].append(best[2])
    return True


def separate_pipelines(fleet: Fleet) -> Layout | None:
    """Pipelines of one kind of machine each, the model split evenly over them."""
    spans: Spans = {}
    for name in fleet.kind_names:
        machines = fleet.of_kind(name)
        depth = -(-fleet.num_layers // fleet.kind(name).max_layers)
        for start in range(0, len(machines) - depth + 1, depth):
            team = machines[start : start + depth]
            spans |= dict(zip(team, _even(fleet.num_layers, depth), strict=True))
    return _whole(fleet, spans)


def _even(num_layers: int, num_parts: int) -> list[tuple[int, int]]:
    """First layer and end of equal parts, longer ones first."""
    cuts = [-(-num_layers * part // num_parts) for part in range(num_parts + 1)]
    return [(cuts[part], cuts[part + 1]) for part in range(num_parts)]


def _whole(fleet: Fleet, spans: Spans) -> Layout | None:
    """The layout, if it holds the whole model."""
    layout = Layout.from_spans(spans)
    return layout if layout.segments and layout.why_not(fleet) is None else None


def baselines(fleet: Fleet) -> Iterable[tuple[str, Layout | None]]:
    """All of them by name."""
    yield "petals-like", petals_like(fleet)
    yield "swarm-like", swarm_like(fleet)
    yield "separate", separate_pipelines(fleet)
