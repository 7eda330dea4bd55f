"""The search methods by name, and which of them a name stands for."""

from planner.errors import UnknownMethodError
from planner.search.aggregated import Aggregated
from planner.search.contract import SearchMethod
from planner.search.distserve_high import DistServeHigh
from planner.search.distserve_low import DistServeLow
from planner.search.exhaustive import Exhaustive
from planner.search.hexgen2.method import HexGen2
from planner.search.local_search import LocalSearch
from planner.search.per_type import PerType
from planner.search.pipelines.method import Pipelines
from planner.search.provisioning.method import Provisioning

_METHODS: tuple[SearchMethod, ...] = (
    Aggregated(),
    DistServeHigh(),
    DistServeLow(),
    Provisioning(),
    HexGen2(),
    LocalSearch(),
    Pipelines(),
    PerType(),
    PerType(is_side_by_side=False),
    Exhaustive(),
)

_GROUPS: dict[str, tuple[str, ...]] = {
    "auto": (
        "aggregated",
        "distserve-high",
        "distserve-low",
        "provisioning",
        "hexgen2",
        "pipelines",
        "local-search",
    ),
    "distserve": ("distserve-high", "distserve-low"),
}
"""Names that stand for several methods; the best of them wins."""

_IN_AUTO: dict[str, SearchMethod] = {
    "hexgen2": HexGen2(needs_unlike=True, max_gpus=32),
    "local-search": LocalSearch(needs_unlike=True),
    "pipelines": Pipelines(needs_leftovers=True, max_gpus=64),
}
"""Methods that `auto` runs on fewer problems, where they add more rate than time."""


def method_names() -> tuple[str, ...]:
    """Everything that `solve(method=...)` takes."""
    return (*_GROUPS, *(method.name for method in _METHODS))


def methods_of(name: str) -> tuple[SearchMethod, ...]:
    """The methods behind a name.

    Raises
    ------
    UnknownMethodError
        With the nearest known name.
    """
    known = {method.name: method for method in _METHODS}
    if name == "auto":
        known |= _IN_AUTO
    if name not in known and name not in _GROUPS:
        raise UnknownMethodError(name, method_names())
    return tuple(known[each] for each in _GROUPS.get(name, (name,)))
