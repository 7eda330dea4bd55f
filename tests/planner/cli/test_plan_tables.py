"""What the tables of a plan leave out, and what they say once."""

from planner.cli.plan_tables import MAX_ROWS, folded, shortened


def test_warning_of_all_shapes_is_said_once_and_names_none() -> None:
    warnings = ["prefill a TP2: measure", "decode b TP1: measure"]
    shapes = {"prefill a TP2", "decode b TP1"}
    assert folded(warnings, shapes) == ["measure"]


def test_warning_of_some_shapes_names_them() -> None:
    warnings = ["prefill a: measure", "prefill b: measure", "decode c: extrapolated"]
    shapes = {"prefill a", "prefill b", "decode c"}
    assert folded(warnings, shapes) == [
        "prefill a, prefill b: measure",
        "decode c: extrapolated",
    ]


def test_warning_about_something_else_stays_whole() -> None:
    assert folded(["trace: sorted"], {"prefill a"}) == ["trace: sorted"]


def test_long_table_says_how_many_rows_are_left_out() -> None:
    rows = [[str(number), "x"] for number in range(MAX_ROWS + 1)]
    shown = shortened(rows)
    # 24 rows are kept: 23 of 25, and one that stands for the other 2.
    assert len(shown) == MAX_ROWS
    assert shown[-1] == ["2 more", ""]
    assert shortened(rows[:MAX_ROWS]) == rows[:MAX_ROWS]
