"""Shapes of SVG pictures: boxes, lines and texts, every text escaped."""

from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from clusters.fields import spec

INK, FAINT = "#222222", "#8a8a8a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Where something is."""

    left: float = spec("Left edge.", unit="px")
    top: float = spec("Upper edge.", unit="px")
    width: float = spec("Width.", unit="px")
    height: float = spec("Height.", unit="px")


def ink_on(fill: str) -> str:
    """Ink that reads on a colour: white on dark, black on light."""
    red, green, blue = (int(fill[i : i + 2], 16) for i in (1, 3, 5))
    return "#ffffff" if 0.3 * red + 0.59 * green + 0.11 * blue < 140 else INK


def rect_of(box: Box, *, fill: str, stroke: str | None = None, radius: int = 0) -> str:
    """A filled box, with an edge and round corners if wanted."""
    edge = f' stroke="{stroke}"' if stroke else ""
    corner = f' rx="{radius}"' if radius else ""
    return (
        f'<rect x="{box.left:g}" y="{box.top:g}" width="{box.width:g}" '
        f'height="{box.height:g}"{corner} fill="{fill}"{edge}/>'
    )


def line_to(start: tuple[float, float], end: tuple[float, float], width: float) -> str:
    """A faint line from (x, y) to (x, y), `width` pixels wide."""
    return (
        f'<line x1="{start[0]:g}" y1="{start[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}" '
        f'stroke="{FAINT}" stroke-width="{width:.1f}"/>'
    )


def text_at(
    x: float,
    y: float,
    text: str,
    *,
    fill: str = INK,
    anchor: str = "start",
    size_px: int = 10,
    weight: str = "normal",
) -> str:
    """A line of text at (x, y)."""
    return (
        f'<text x="{x:g}" y="{y:g}" fill="{fill}" text-anchor="{anchor}" '
        f'font-size="{size_px}" font-weight={quoteattr(weight)}>{escape(text)}</text>'
    )
