"""Traces with prefix hashes: units and lines that are wrong."""

import json
from pathlib import Path

import pytest

from clusters.fields import InputError
from planner.workload.traces import read_trace, trace_format

LINE = (
    '{"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [0, 4]}'
)


def test_mooncake_counts_milliseconds(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text(LINE + "\n" + LINE.replace("3000", "3001") + "\n")
    requests = read_trace(file)
    assert requests.arrival_ms.tolist() == [3000, 3001]
    assert requests.prefix_blocks.rows() == ((0, 4), (0, 4))


def test_bailian_counts_seconds(tmp_path: Path) -> None:
    file = tmp_path / "b.jsonl"
    record = {"chat_id": 1, "parent_chat_id": -1, "turn": 1, **json.loads(LINE)}
    file.write_text(json.dumps({**record, "timestamp": 61.114}))
    assert trace_format(file) == "bailian"
    assert read_trace(file).arrival_ms == pytest.approx([61_114])


def test_hashes_may_be_absent_on_some_lines(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    bare = '{"timestamp": 3000, "input_length": 600, "output_length": 5}'
    file.write_text("\n".join([bare, LINE, bare]))
    assert read_trace(file).prefix_blocks.rows() == ((), (0, 4), ())


def test_blank_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text(f"\n{LINE}\n\n{{broken\n")
    with pytest.raises(InputError, match=r"m\.jsonl:4: '\{broken': expected JSON"):
        read_trace(file)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"timestamp": 1, "input_length"', ":2: "),
        ("[1, 2]", ":2: [1, 2]: expected a JSON object on every line"),
        (
            '{"timestamp": 1, "input_lenght": 5, "output_length": 5}',
            "expected the key 'input_length' (nearest is 'input_lenght')",
        ),
        (LINE.replace("3000", "NaN"), ":2: timestamp = nan: expected a finite number"),
        (
            LINE.replace("3000", "-1"),
            ":2: arrival_ms = -1.0: expected a finite time >=",
        ),
        (LINE.replace("3000", "9" * 400), ":2: timestamp = 9999"),
        (LINE.replace("600", "true"), ":2: input_length = True: expected a finite"),
        (
            LINE.replace("600", "1e12"),
            ":2: input_tokens = 1000000000000: expected a wh",
        ),
        (
            LINE.replace("[0, 4]", "[0, 0.5]"),
            ":2: hash_ids = [0, 0.5]: expected a list",
        ),
        ("[" * 100_000, ":2: "),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text(f"{LINE}\n{line}\n")
    with pytest.raises(InputError) as caught:
        read_trace(file)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{file}:2: ")
    assert "\n" not in str(caught.value)
