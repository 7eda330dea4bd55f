"""Azure traces: 7 digits, time zones, and lines that are wrong."""

from pathlib import Path

import pytest

from clusters.fields import InputError
from planner.workload.traces import read_trace

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def written(path: Path, *rows: str, end: str = "\n") -> Path:
    path.write_text(HEADER + end.join(rows), newline="")
    return path


def test_times_keep_their_seventh_digit(tmp_path: Path) -> None:
    file = written(
        tmp_path / "a.csv",
        "2023-11-16 18:15:46.6805900,374,44",
        "2023-11-16 18:15:50.9951691,396,109",
        "2023-11-16 18:16:00.0000000,1,1",
    )
    requests = read_trace(file)
    # 50.9951691 − 46.68059 = 4.3145791 s; the next minute comes 13.31941 s later.
    assert requests.arrival_ms == pytest.approx([0, 4314.5791, 13319.41], abs=1e-7)
    assert requests.input_tokens.tolist() == [374, 396, 1]
    assert requests.output_tokens.tolist() == [44, 109, 1]


def test_midnight_does_not_turn_time_back(tmp_path: Path) -> None:
    file = written(
        tmp_path / "a.csv", "2023-12-31 23:59:59.5,1,1", "2024-01-01 00:00:00.5,1,1"
    )
    assert read_trace(file).arrival_ms.tolist() == [0, 1000]


@pytest.mark.parametrize("zones", [("+00:00", "+00:00"), ("Z", "+00:00"), ("", "Z")])
def test_utc_may_be_written_or_not(tmp_path: Path, zones: tuple[str, str]) -> None:
    file = written(
        tmp_path / "a.csv",
        f"2024-05-10 00:00:00.009930{zones[0]},2162,5",
        f"2024-05-10 00:00:01.009930{zones[1]},2399,6",
    )
    assert read_trace(file).arrival_ms == pytest.approx([0, 1000])


def test_an_offset_from_utc_counts(tmp_path: Path) -> None:
    # 02:00:01 two hours east of Greenwich is 00:00:01 there.
    file = written(
        tmp_path / "a.csv",
        "2024-05-10 00:00:00.0+00:00,1,1",
        "2024-05-10 02:00:01.0+02:00,1,1",
        "2024-05-09 19:00:02.0-05:00,1,1",
    )
    assert read_trace(file).arrival_ms == pytest.approx([0, 1000, 2000])


def test_windows_line_ends_are_read(tmp_path: Path) -> None:
    rows = ("2023-11-16 18:15:46.0,1,2", "2023-11-16 18:15:47.0,3,4", "")
    file = written(tmp_path / "a.csv", *rows, end="\r\n")
    assert read_trace(file).output_tokens.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("yesterday,1,1", ":3: TIMESTAMP = 'yesterday': expected a date and time like"),
        ("2023-11-16,1,1", ":3: TIMESTAMP = '2023-11-16': expected a date and time"),
        ("2023-13-16 18:15:46.0,1,1", ":3: TIMESTAMP = "),
        ("2023-11-16 18:15:nan,1,1", ":3: TIMESTAMP = "),
        ("2023-11-16 18:15:46.0,x,1", ":3: ContextTokens = 'x': expected a finite num"),
        ("2023-11-16 18:15:46.0,1,nan", ":3: GeneratedTokens = 'nan': expected"),
        ("2023-11-16 18:15:46.0,1.5,1", ":3: ContextTokens = '1.5': expected a whole"),
        (
            "2023-11-16 18:15:46.0,-5,1",
            ":3: input_tokens = -5: expected a whole number",
        ),
        (
            "2023-11-16 18:15:46.0,10000000000,1",
            ":3: input_tokens = 10000000000: expected a whole number from 1 to",
        ),
        (
            "2023-11-16 18:15:46.0,1",
            ":3: '2023-11-16 18:15:46.0,1': expected 3 columns",
        ),
        ('2023-11-16 18:15:46.0,"1,1', ":3: "),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, row: str, message: str) -> None:
    file = written(tmp_path / "a.csv", "2023-11-16 18:15:46.6805900,374,44", row)
    with pytest.raises(InputError) as caught:
        read_trace(file)
    assert f"{file}{message}" in str(caught.value)
    assert "\n" not in str(caught.value)
