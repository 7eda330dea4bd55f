"""PNG: a picture drawn as SVG, as pixels, by an optional library."""

import importlib
from typing import Any

from clusters.fields import InputError

SCALE = 2.0
"""Pixels for each unit of the SVG: sharp on a screen, and legible in print."""


def png_of(svg: str) -> bytes:
    """The bytes of a PNG file that shows an SVG document.

    Raises
    ------
    InputError
        When CairoSVG or the system's cairo library is not installed.
    """
    try:
        cairosvg: Any = importlib.import_module("cairosvg")
    except (ImportError, OSError):
        # Without the system library the import ends in an OSError.
        form = (
            "a name that ends in .svg, or CairoSVG with the system's cairo library "
            "(pip install 'phaseplan[picture]')"
        )
        raise InputError("--output", "a .png file", form) from None
    made: bytes = cairosvg.svg2png(bytestring=svg.encode("utf-8"), scale=SCALE)
    return made
