"""Recognising and opening trace files."""

from pathlib import Path

import pytest

from clusters.fields import InputError
from planner.workload.traces import TraceFormat, read_trace, trace_format


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", TraceFormat.AZURE),
        ("\ufeffTIMESTAMP,ContextTokens,GeneratedTokens\n", TraceFormat.AZURE),
        ("Timestamp,Model,Request tokens,Response tokens\n", TraceFormat.BURSTGPT),
        ('{"timestamp":0,"input_length":1,"output_length":1}', TraceFormat.MOONCAKE),
        ('{"arrival_ms":0,"input_length":1,"output_length":1}', TraceFormat.JSONL),
        ("\n\narrival_s,input_tokens,output_tokens\n", TraceFormat.CSV),
        ('[{"id":', TraceFormat.SHAREGPT),
    ],
)
def test_the_first_line_tells_the_format(
    tmp_path: Path, text: str, format: TraceFormat
) -> None:
    file = tmp_path / "trace"
    file.write_text(text, encoding="utf-8")
    assert trace_format(file) is format


def test_an_unknown_header_lists_the_formats(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("when,how_long\n1,2\n")
    with pytest.raises(InputError) as caught:
        read_trace(file)
    assert str(caught.value) == (
        f"{file}:1: 'when,how_long': expected a trace in a known format (azure, "
        "mooncake, bailian, burstgpt, sharegpt, csv, jsonl)"
    )


def test_an_unknown_format_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"format = 'azur': .*nearest is 'azure'"):
        read_trace(tmp_path / "t.csv", format="azur")


def test_the_wrong_format_is_an_error_not_a_guess(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("arrival_ms,input_tokens,output_tokens\n0,1,1\n")
    with pytest.raises(InputError, match="expected a column 'TIMESTAMP'"):
        read_trace(file, format="azure")


@pytest.mark.parametrize("format", [None, *TraceFormat])
@pytest.mark.filterwarnings("ignore::planner.workload.traces.TraceWarning")
def test_an_empty_file_is_an_error_in_every_format(
    tmp_path: Path, format: str | None
) -> None:
    file = tmp_path / "empty"
    file.write_text("")
    with pytest.raises(InputError) as caught:
        read_trace(file, format=format)
    assert str(caught.value).startswith(str(file))


def test_files_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.csv.*: expected an existing file"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(InputError, match="expected a file, not a folder"):
        read_trace(tmp_path)


def test_bytes_that_are_not_text_are_an_error_of_their_line(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    header = b"arrival_ms,input_tokens,output_tokens\n"
    file.write_bytes(header + b"0,1,1\n1,\xff\xfe,1\n")
    with pytest.raises(InputError, match=r"t\.csv:3: input_tokens = "):
        read_trace(file)


@pytest.mark.parametrize("head", [0, -1])
def test_a_head_below_one_is_refused(tmp_path: Path, head: int) -> None:
    file = tmp_path / "t.csv"
    file.write_text("arrival_ms,input_tokens,output_tokens\n0,1,1\n")
    with pytest.raises(InputError, match=f"head = {head}: expected a whole number"):
        read_trace(file, head=head)
