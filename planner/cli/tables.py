"""Tables and numbers as people read them."""

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from clusters.units import GB, GIB, MIB, TERA

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

MAX_NAME_WIDTH = 32
"""Names up to this wide are never folded."""

_SCALES: dict[str, tuple[tuple[float, float, str], ...]] = {
    "bytes": ((GIB, GIB, "GiB"), (MIB, MIB, "MiB")),
    "bytes/s": ((TERA, TERA, "TB/s"), (0.0, GB, "GB/s")),
    "FLOP/s": ((0.0, TERA, "TFLOP/s"),),
    "OP/s": ((0.0, TERA, "TOP/s"),),
    "parameters": ((0.0, GB, "B"),),
    "usd/h": ((0.0, 1.0, "$/h"),),
    "1": ((0.0, 1.0, ""),),
}
"""By unit: from which value on it is divided by what and called what, largest first."""


def table_of(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numeric: Collection[str] = (),
) -> "Table":
    """A table of text cells; columns named in `numeric` are aligned to the right."""
    from rich import box
    from rich.table import Table

    cells = [list(row) for row in rows]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, header in enumerate(headers):
        lines = [line for row in cells for line in row[index].split("\n")]
        widest = max((len(line) for line in [*lines, header]), default=0)
        # Fold: a long word takes two lines and loses nothing. Names come first.
        table.add_column(
            header,
            justify="right" if header in numeric else "left",
            overflow="fold",
            no_wrap=index == 0 and widest <= MAX_NAME_WIDTH,
        )
    for row in cells:
        table.add_row(*row)
    return table


def facts_table(rows: Iterable[tuple[str, str]]) -> "Table":
    """A table of names and values without a header."""
    table = table_of(["", " "], rows)
    table.show_header = False
    return table


def sections(*parts: tuple[str, "RenderableType"]) -> "Group":
    """Tables under each other, each below its title if it has one."""
    from rich.console import Group
    from rich.text import Text

    shown: list[RenderableType] = []
    for title, body in parts:
        shown += [""] if shown else []
        shown += [Text(title, style="bold")] if title else []
        shown.append(body)
    return Group(*shown)


def quantity(value: object, unit: str = "") -> str:
    """A number with its unit, e.g. ``80 GiB``; ``-`` for None."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    for at_least, divisor, name in _SCALES.get(unit, ()):
        if value >= at_least:
            return f"{_digits(value / divisor)} {name}".rstrip()
    return f"{_digits(value)} {unit}".rstrip()


def _digits(value: float) -> str:
    """Whole and large numbers in full, others to four significant digits."""
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:,.4g}"
