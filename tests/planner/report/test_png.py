"""PNG: what the library gets, and what is said without it."""

import sys
from types import ModuleType

import pytest

from clusters.fields import InputError
from planner.report.png import SCALE, png_of

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="4" height="2"></svg>'


def test_the_library_gets_the_picture(monkeypatch):
    given = {}

    def svg2png(**options):
        given.update(options)
        return b"pixels"

    library = ModuleType("cairosvg")
    library.svg2png = svg2png
    monkeypatch.setitem(sys.modules, "cairosvg", library)
    assert png_of(SVG) == b"pixels"
    assert given == {"bytestring": SVG.encode(), "scale": SCALE}


def test_without_it_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "cairosvg", None)
    with pytest.raises(InputError) as caught:
        png_of(SVG)
    assert "phaseplan[picture]" in str(caught.value)
    assert ".svg" in str(caught.value)


def test_with_the_library_the_pixels_are_a_png_of_that_size():
    pytest.importorskip("cairosvg", exc_type=ImportError)
    made = png_of(SVG)
    assert made.startswith(b"\x89PNG")
    width, height = (int.from_bytes(made[i : i + 4]) for i in (16, 20))
    assert (width, height) == (4 * SCALE, 2 * SCALE)
