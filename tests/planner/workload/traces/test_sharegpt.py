"""ShareGPT: first turns of a JSON array, read item by item."""

import json
from pathlib import Path

import pytest

from clusters.fields import InputError
from planner.workload.traces import TraceFormat, TraceWarning, read_trace, trace_format


def conversation(*texts: str) -> dict[str, object]:
    speakers = ("human", "gpt")
    turns = [{"from": speakers[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"id": "x", "conversations": turns}


@pytest.mark.parametrize("indent", [None, 2], ids=["one line", "pretty"])
def test_a_length_is_a_quarter_of_the_characters(
    tmp_path: Path, indent: int | None
) -> None:
    file = tmp_path / "s.json"
    items = [conversation("a" * 8, "b" * 9, "c"), conversation("d", "e" * 400_000)]
    file.write_text(json.dumps(items, indent=indent))
    assert trace_format(file) is TraceFormat.SHAREGPT
    with pytest.warns(TraceWarning, match="estimated as characters / 4$"):
        requests = read_trace(file)
    # 8/4 = 2 and 9/4 rounded up = 3; 1 character is one token.
    assert requests.input_tokens.tolist() == [2, 1]
    assert requests.output_tokens.tolist() == [3, 100_000]
    assert requests.arrival_ms.tolist() == [0, 0]


def test_conversations_without_an_answer_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    items = [conversation("a"), conversation("a", "b"), conversation()]
    file.write_text(json.dumps(items))
    with pytest.warns(TraceWarning, match="2 conversations without an answer were"):
        assert len(read_trace(file)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n{"id": "x", "conversations"', ":2: "),
        (
            '[\n{"id": "x", "conversations": []},\nnonsense]',
            ":3: 'nonsense]': expected",
        ),
        ('[\n\n{"id": "x"}]', ":3: {'id': 'x'}: expected an object with a list 'conv"),
        ('[{"conversations": [{"from": "human"}, {}]}]', ":1: conversations = "),
        ("[", ":1: 'end of file': expected a JSON array of conversations"),
    ],
)
def test_a_malformed_array_is_located(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "s.json"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_trace(file)
    assert f"{file}{message}" in str(caught.value)


@pytest.mark.filterwarnings("ignore::planner.workload.traces.TraceWarning")
def test_an_empty_array_is_an_empty_trace(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text("[]")
    with pytest.raises(InputError, match="trace = 'no rows': expected at least one"):
        read_trace(file)
