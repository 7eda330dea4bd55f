"""What happens to the rows of any trace: order, drops, ranges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.fields import InputError
from planner.workload.traces.rows import TraceRow, TraceWarning, collect, whole_number


def rows_at(*arrival_ms: float) -> list[TraceRow]:
    return [(i + 2, ms, i + 1, 1, None) for i, ms in enumerate(arrival_ms)]


def test_unsorted_rows_are_sorted_with_a_count() -> None:
    # 5 < 9 and 1 < 7: two rows arrive before the one above.
    with pytest.warns(
        TraceWarning, match=r"t: 2 of 4 rows arrive before the row above"
    ):
        requests = collect(rows_at(9, 5, 7, 1), file="t")
    assert requests.arrival_ms.tolist() == [1, 5, 7, 9]
    assert requests.input_tokens.tolist() == [4, 2, 3, 1]


def test_rows_at_the_same_time_keep_their_order() -> None:
    with pytest.warns(TraceWarning):
        requests = collect(rows_at(3, 3, 0, 3), file="t")
    assert requests.input_tokens.tolist() == [3, 1, 2, 4]


def test_hashes_move_with_their_row() -> None:
    rows: list[TraceRow] = [(1, 5.0, 1, 1, (1,)), (2, 0.0, 1, 1, (2, 3))]
    with pytest.warns(TraceWarning):
        assert collect(rows, file="t").prefix_blocks.rows() == ((2, 3), (1,))


def test_calendar_times_count_from_the_earliest() -> None:
    with pytest.warns(TraceWarning):
        requests = collect(rows_at(0, -50, 10), file="t", is_calendar=True)
    assert requests.arrival_ms.tolist() == [0, 50, 60]


def test_head_counts_usable_rows_and_reads_no_further() -> None:
    def rows() -> "list[TraceRow]":
        yield (2, 0.0, 1, 0, None)
        yield from rows_at(0, 1)
        raise AssertionError("read beyond the head")

    with pytest.warns(TraceWarning, match="1 of 3 rows have no input or no output"):
        assert len(collect(rows(), file="t", head=2)) == 2


@pytest.mark.parametrize(
    ("rows", "found"),
    [([], "'no rows'"), ([(2, 0.0, 5, 0, None)], "'1 rows without tokens'")],
)
def test_an_empty_trace_is_refused(rows: list[TraceRow], found: str) -> None:
    with pytest.raises(InputError) as caught:
        collect(rows, file="t")
    assert str(caught.value) == f"t: trace = {found}: expected at least one request"


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=50))
@pytest.mark.filterwarnings("ignore::planner.workload.traces.TraceWarning")
def test_no_row_is_lost_or_invented(times: list[float]) -> None:
    requests = collect(rows_at(*times), file="t")
    assert requests.arrival_ms.tolist() == sorted(times)
    assert sorted(requests.input_tokens) == list(range(1, len(times) + 1))
    assert requests.input_tokens.dtype == np.int64


@pytest.mark.parametrize(("value", "number"), [("12", 12), ("12.0", 12), (12.0, 12)])
def test_whole_numbers_may_be_written_as_decimals(value: object, number: int) -> None:
    assert whole_number(value) == number


@pytest.mark.parametrize("value", ["1.5", "", "x", "inf", None, True, [1], "9" * 5000])
def test_anything_else_is_not_a_whole_number(value: object) -> None:
    with pytest.raises(ValueError, match="number"):
        whole_number(value)
