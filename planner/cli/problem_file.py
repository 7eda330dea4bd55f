"""Problem files of the commands: `--set` before reading, their names in errors."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clusters.fields import InputError
from clusters.mapping import from_mapping, nearest

if TYPE_CHECKING:
    from planner.plan import Plan
    from planner.problem import Problem

METHODS = (
    "auto",
    "distserve",
    "aggregated",
    "distserve-high",
    "distserve-low",
    "provisioning",
    "hexgen2",
    "local-search",
    "pipelines",
    "per-type",
    "homogeneous",
    "exhaustive",
)
"""Names of search methods; written out so that help and completion import nothing."""

SHARED_METHODS = ("exact", "muxserve", "spatial", "temporal", "disaggregated")
"""Those for several services on one cluster, beside ``auto``."""

_STEP = re.compile(r"[\w-]+|\[\d+\]")
_PATH = re.compile(r"[\w-]+(\[\d+\])*(\.[\w-]+(\[\d+\])*)*")


def check_method(name: str) -> str:
    """Refuse a search method that does not exist.

    Raises
    ------
    InputError
        Naming the nearest method.
    """
    known = (*METHODS, *SHARED_METHODS)
    if name not in known:
        raise InputError("--method", name, f"a search method ({nearest(name, known)})")
    return name


def check_one_service(method: str) -> None:
    """Refuse a method that is for several services.

    Raises
    ------
    InputError
        Naming those for one.
    """
    if method in SHARED_METHODS:
        form = f"a method for one service ({', '.join(METHODS)})"
        raise InputError("--method", method, form)


def check_positive(option: typer.CallbackParam, value: float | None) -> float | None:
    """Refuse a number that is not above 0; NaN is not."""
    if value is not None and not 0 < value < float("inf"):
        raise InputError(f"--{option.name}".replace("_", "-"), value, "a number > 0")
    return value


def complete_method(incomplete: str) -> list[str]:
    """Methods that begin with what has been typed."""
    known = (*METHODS, *SHARED_METHODS)
    return [name for name in known if name.startswith(incomplete)]


MethodOption = Annotated[
    str,
    typer.Option(
        callback=check_method,
        autocompletion=complete_method,
        help=f"{', '.join(METHODS)}; several services: {', '.join(SHARED_METHODS)}.",
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of every random draw.")]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change a key of the problem, e.g. services[0].slo.ttft_ms=300. "
        "Can be repeated.",
    ),
]


def read_problem(path: Path, settings: Sequence[str] | None = None) -> "Problem":
    """A problem file, with some of its keys set anew.

    Raises
    ------
    InputError
        For the file, a setting, or what they make together.
    """
    from planner.problem import Problem

    return from_mapping(Problem, read_data(path, settings), file=str(path))


def read_data(path: Path, settings: Sequence[str] | None = None) -> dict[str, Any]:
    """The mapping of a problem file, with some of its keys set anew.

    Raises
    ------
    InputError
        For the file or a setting.
    """
    from clusters.serde import read_mapping

    data = read_mapping(path)
    for setting in settings or ():
        assign(data, setting)
    return data


def assign(data: dict[str, Any], setting: str) -> None:
    """Set one key of a problem's mapping, as ``services[0].slo.ttft_ms=300``.

    Mappings on the way are made where the file has none; entries of lists are not.

    Raises
    ------
    InputError
        If the setting has another form, or its path does not exist.
    """
    from clusters.serde import parse_yaml

    path, sign, text = setting.partition("=")
    if not sign or not _PATH.fullmatch(path):
        form = "PATH=VALUE, e.g. services[0].slo.ttft_ms=300"
        raise InputError("--set", setting, form)
    try:
        value = parse_yaml(text, "--set")
    except InputError:
        raise InputError("--set", setting, "a YAML value after the =") from None
    steps = _STEP.findall(path)
    place: Any = data
    for step in steps[:-1]:
        key = _key_in(place, step, setting)
        if isinstance(place, dict) and place.get(key) is None:
            place[key] = {}
        place = place[key]
    place[_key_in(place, steps[-1], setting)] = value


def check_supported(problem: "Problem", method: str, path: Path) -> None:
    """Refuse a problem that none of the methods behind a name can plan.

    Raises
    ------
    InputError
        With the reason of every method.
    """
    from planner.search.registry import methods_of

    concurrency = problem.service.workload.concurrency
    if concurrency is not None:
        key = "services[0].workload.concurrency"
        form = "a rate_rps instead: a plan is made for a rate"
        raise InputError(
            key, concurrency, f"{form} (see simulate --concurrency)", file=str(path)
        )
    reasons = [each.supports(problem) for each in methods_of(method)]
    if None not in reasons:
        told = "; ".join(dict.fromkeys(str(reason) for reason in reasons))
        raise InputError(
            "--method", method, f"one for this problem ({told})", file=str(path)
        )


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Let errors about a value that came from a file name the file."""
    try:
        yield
    except InputError as error:
        raise (error if error.file else error.in_file(str(path))) from None


def files_of(path: Path, best: "Plan") -> tuple[Path, ...]:
    """Files that a plan was made from: the problem, and those it names."""
    from clusters.serde import read_mapping

    data = read_mapping(path)
    services = data.get("services") or [{}]
    named = [data.get("cluster"), services[0].get("llm")]
    beside = [path.parent / name for name in named if isinstance(name, str)]
    workload = best.problem.service.workload
    source = workload.source or getattr(workload.lengths, "source", None)
    traces = [] if source is None else [Path(source.path)]
    return (path, *(each for each in beside if each.is_file()), *traces)


def _key_in(place: Any, step: str, setting: str) -> str | int:
    """The key or index that a step of a path means in a mapping or list."""
    if not step.startswith("["):
        if isinstance(place, dict):
            return step
        form = f"a path through mappings ({step!r} is looked for in {place!r:.40})"
        raise InputError("--set", setting, form)
    index = int(step[1:-1])
    if isinstance(place, list) and index < len(place):
        return index
    num = f"has {len(place)} entries" if isinstance(place, list) else "is no list"
    raise InputError("--set", setting, f"a path that exists ({step}: this {num})")
