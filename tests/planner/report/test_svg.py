"""Shapes of SVG pictures."""

from xml.etree import ElementTree

import pytest

from planner.report.svg import INK, Box, ink_on, line_to, rect_of, text_at


@pytest.mark.parametrize("text", ["a < b & c", '"quoted"', "</text><script>"])
def test_text_is_escaped(text):
    found = ElementTree.fromstring(text_at(1.5, 2.0, text, weight='"bold"'))
    assert found.text == text
    assert (found.get("x"), found.get("y")) == ("1.5", "2")
    assert found.get("font-weight") == '"bold"'


def test_boxes_and_lines_are_where_they_are_put():
    box = Box(left=1.0, top=2.0, width=3.0, height=4.5)
    found = ElementTree.fromstring(rect_of(box, fill="#ffffff", stroke=INK, radius=2))
    sizes = [found.get(name) for name in ("x", "y", "width", "height", "rx")]
    assert sizes == ["1", "2", "3", "4.5", "2"]
    line = ElementTree.fromstring(line_to((0.0, 1.0), (2.0, 3.0), 0.25))
    assert [line.get(name) for name in ("x1", "y1", "x2", "y2")] == list("0123")


def test_ink_reads_on_its_ground():
    assert ink_on("#000000") == "#ffffff"
    assert ink_on("#ffffff") == INK
