"""BurstGPT: seconds, extra columns, failed requests."""

from pathlib import Path

import pytest

from planner.workload.traces import TraceWarning, read_trace, trace_format

FIRST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
THIRD = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,"
    "Total tokens,Log Type\n"
)


def test_seconds_become_milliseconds(tmp_path: Path) -> None:
    file = tmp_path / "b.csv"
    file.write_text(
        FIRST + "5,ChatGPT,472,18,490,Conversation log\n45.5,GPT-4,9,7,16,x\n"
    )
    requests = read_trace(file)
    assert trace_format(file) == "burstgpt"
    assert requests.arrival_ms.tolist() == [5000, 45_500]
    assert requests.input_tokens.tolist() == [472, 9]
    assert requests.output_tokens.tolist() == [18, 7]


def test_later_columns_do_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "b.csv"
    file.write_text(THIRD + "5,s1,1.25,ChatGPT,472.0,18,490,Conversation log\n")
    assert read_trace(file).input_tokens.tolist() == [472]


def test_failed_requests_are_dropped_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "b.csv"
    file.write_text(FIRST + "5,m,472,0,472,l\n6,m,1,1,2,l\n7,m,3,0,3,l\n")
    with pytest.warns(TraceWarning, match="2 of 3 rows have no input or no output"):
        requests = read_trace(file)
    assert requests.arrival_ms.tolist() == [6000]
