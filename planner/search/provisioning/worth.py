"""What would help most: prices of the relaxation as gains of the goal.

The price of a constraint is what one more unit of its limit adds at the optimum. One
more host of a class relieves all rows of the class at once.
"""

from clusters.units import GB
from planner.objective import Goal
from planner.plan import AllocationBound, Worth
from planner.result import gap_to
from planner.search.provisioning.hosts import HostClass
from planner.search.provisioning.optimum import Allocation, Bound
from planner.search.provisioning.program import (
    GPUS,
    HOSTS,
    LINK,
    NICS,
    SPLITS,
    WIDTH,
    ProgramData,
)

_ROUNDING = 1e-9


def allocation_bound(
    goal: Goal, data: ProgramData, whole: Allocation, relaxed: Bound
) -> AllocationBound:
    """The whole allocation, its bound and the relaxation; what each limit is worth."""
    return AllocationBound(
        value=whole.bound,
        whole_value=whole.value,
        relaxed_value=relaxed.value,
        whole_gap_frac=gap_to(goal, whole.value, relaxed.value) or 0.0,
        worth=() if goal is Goal.MAX_GOODPUT_PER_GPU else _worth(data, relaxed),
    )


def _worth(data: ProgramData, relaxed: Bound) -> tuple[Worth, ...]:
    """GPUs of each kind of node, and the NICs and links that KV caches cross."""
    gains: dict[str, float] = {}
    for index, hosts in enumerate(data.classes):
        name = f"GPU {hosts.gpu_type} (in a node of {hosts.num_gpus})"
        gain = _of_host(index, hosts, relaxed) / hosts.num_gpus
        gains[name] = max(gain, gains.get(name, 0.0))
    per_gb_s = data.network.requests_per_s(GB) or 0.0
    for index, hosts in enumerate(data.classes):
        if f"{NICS}{index}" in relaxed.prices:
            what = f"{hosts.num_gpus} {hosts.gpu_type}"
            name = f"GB/s of the NICs of every node of {what}"
            gain = relaxed.prices[f"{NICS}{index}"] * per_gb_s
            gains[name] = gains.get(name, 0.0) + gain
    for number, link in enumerate(data.network.links):
        gain = relaxed.prices.get(f"{LINK}{number}", 0.0) * per_gb_s
        name = f"GB/s from {_plain(link.source)} to {_plain(link.target)}"
        gains[name] = max(0.0, gain)
    cleaned = {name: gain if gain > _ROUNDING else 0.0 for name, gain in gains.items()}
    order = sorted(cleaned.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Worth(limit=name, gain=gain) for name, gain in order)


def _of_host(index: int, hosts: HostClass, relaxed: Bound) -> float:
    """Gain of one more host: its rows, each by what a host adds to the limit."""
    prices = relaxed.prices
    gain = prices.get(f"{HOSTS}{index}", 0.0) + prices.get(f"{SPLITS}{index}", 0.0)
    gain += prices.get(f"{GPUS}{index}", 0.0) * hosts.num_gpus
    for width in range(2, hosts.num_gpus + 1):
        price = prices.get(f"{WIDTH}{index}_{width}", 0.0)
        gain += price * (hosts.num_gpus // width)
    return max(0.0, gain)


def _plain(vertex: str) -> str:
    """Name of a switch as people write it."""
    return vertex.removeprefix("leaf:")
