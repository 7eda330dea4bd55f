"""Our own format: names, units that are never guessed silently, and errors."""

from pathlib import Path

import pytest

from clusters.fields import InputError
from planner.workload.traces import TraceWarning, read_trace


@pytest.mark.parametrize(
    ("header", "arrival"),
    [
        ("arrival_ms,input_tokens,output_tokens", "1500"),
        ("arrival_s,input_length,output_length", "1.5"),
        ("arrival_ms,input_len,output_len", "1.5e3"),
    ],
)
def test_the_unit_is_in_the_name(tmp_path: Path, header: str, arrival: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(f"{header}\n{arrival},7,8\n")
    requests = read_trace(file)
    assert requests.arrival_ms.tolist() == [1500]
    assert (requests.input_tokens[0], requests.output_tokens[0]) == (7, 8)


def test_order_of_columns_and_a_request_id_do_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("output_len,req_id,arrival_ms,input_len\n8,0,5,7\n")
    requests = read_trace(file)
    assert (requests.input_tokens[0], requests.output_tokens[0]) == (7, 8)


def test_a_timestamp_without_unit_is_ms_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("timestamp,input_length,output_length\n1500,7,8\n")
    with pytest.warns(
        TraceWarning, match="'timestamp' is read as ms; call it arrival_ms"
    ):
        assert read_trace(file).arrival_ms.tolist() == [1500]


def test_columns_that_are_not_used_are_named(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"arrival_s": 2, "input_len": 7, "output_len": 8, "user": "me"}\n')
    with pytest.warns(TraceWarning, match="columns not used: user"):
        assert read_trace(file).arrival_ms.tolist() == [2000]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "arrivals_ms,input_tokens,output_tokens\n0,1,1\n",
            "expected one column of arrival_ms, arrival_s, timestamp (nearest is "
            "'arrivals_ms')",
        ),
        (
            "arrival_ms,arrival_s,input_tokens,output_tokens\n0,0,1,1\n",
            "'arrival_ms,arrival_s': expected one column of arrival_ms, arrival_s",
        ),
        (
            "arrival_ms,input_tokens,output_tokens\n0,1,1\ninf,1,1\n",
            ":3: arrival_ms = 'inf': expected a finite number",
        ),
        (
            "arrival_ms,input_tokens,output_tokens\n-1,1,1\n",
            ":2: arrival_ms = -1.0: expected a finite time >= 0",
        ),
        (
            "arrival_ms,input_tokens,output_tokens,hash_ids\n0,1,1,0 x\n",
            ":2: hash_ids = '0 x': expected whole numbers separated by blanks",
        ),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_trace(file)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(file))


ROWS_OF_TWO = """\
arrival_ms,model,input_tokens,output_tokens
0,chat,7,8
10,code,70,80
20,chat,9,10
"""


def test_rows_of_one_model_of_a_trace_of_several(tmp_path: Path) -> None:
    file = tmp_path / "day.csv"
    file.write_text(ROWS_OF_TWO)
    chat = read_trace(file, model="chat")
    assert (chat.arrival_ms.tolist(), chat.input_tokens.tolist()) == ([0, 20], [7, 9])
    assert read_trace(file, model="chat", head=1).arrival_ms.tolist() == [0]
    assert read_trace(file, model="code").arrival_ms.tolist() == [10]
    lines = tmp_path / "day.jsonl"
    lines.write_text(
        '{"arrival_ms": 0, "model": "a", "input_len": 7, "output_len": 8}\n'
        '{"arrival_ms": 5, "model": "b", "input_len": 9, "output_len": 8}\n'
    )
    assert read_trace(lines, model="b").input_tokens.tolist() == [9]


def test_a_model_that_the_trace_does_not_have_is_named(tmp_path: Path) -> None:
    file = tmp_path / "day.csv"
    file.write_text(ROWS_OF_TWO)
    with pytest.raises(InputError, match=r"model = 'chad'.*nearest is 'chat'"):
        read_trace(file, model="chad")
    plain = tmp_path / "plain.csv"
    plain.write_text("arrival_ms,input_tokens,output_tokens\n0,7,8\n")
    with pytest.raises(InputError, match=r"model = 'chat'.*whose rows"):
        read_trace(plain, model="chat")
    mooncake = tmp_path / "mooncake.jsonl"
    mooncake.write_text(
        '{"timestamp": 0, "input_length": 7, "output_length": 8, "hash_ids": [1]}\n'
    )
    with pytest.raises(InputError, match=r"model = 'chat'.*csv"):
        read_trace(mooncake, model="chat")
