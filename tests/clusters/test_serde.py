"""Reading and writing files."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.fields import InputError
from clusters.serde import (
    dump_json,
    dump_yaml,
    read_json,
    read_mapping,
    read_yaml,
    write_text_atomic,
)

Write = Callable[[str, str], Path]


def test_yaml_numbers_with_an_exponent_are_numbers(write: Write) -> None:
    # Plain YAML 1.1 reads 2e12 and 1.5e9 (no sign in the exponent) as text.
    path = write("a.yaml", "a: 2e12\nb: 1.5e9\nc: 7\nd: 1e-3\ne: '2e12'\nf: p5.48xl\n")
    assert read_yaml(path) == {
        "a": 2e12,
        "b": 1.5e9,
        "c": 7,
        "d": 0.001,
        "e": "2e12",
        "f": "p5.48xl",
    }


def test_dates_stay_text(write: Write) -> None:
    assert read_yaml(write("a.yaml", "date: 2024-01-31")) == {"date": "2024-01-31"}


@pytest.mark.parametrize(
    ("name", "text", "place", "problem"),
    [
        ("a.yaml", "a: 1\nb: [1, 2\nc: 3\n", ":3:2", "did not find expected"),
        ("a.yaml", "a: 1\nb: 2\na: 3\n", ":3:1", "duplicate key 'a'"),
        ("a.yaml", "a: {b: 1, b: 2}\n", ":1:11", "duplicate key 'b'"),
        ("a.yaml", "a: \tb: c", ":1:6", "YAML"),
        ("a.yaml", "? [a, b]\n: c\n", ":1:3", "unhashable key"),
        ("a.yaml", "a: !!int b\n", "", "YAML (invalid literal"),
        ("a.yaml", "a: !!python/name:os.system b\n", ":1:4", "could not determine"),
        ("a.yaml", "a: \x00\n", "", "YAML ("),
        ("a.yaml", "a: " + "1" * 5000, "", "YAML (Exceeds the limit"),
        ("a.json", '{"a": ' + "1" * 5000 + "}", "", "JSON (Exceeds the limit"),
        ("a.json", '{"a": 1,\n "b": }', ":2:7", "Expecting value"),
        ("a.json", '{"a": 1, "a": 2}', "", "the key once"),
        ("a.json", '{"a": NaN}', "", "a finite number"),
        ("a.json", "", ":1:1", "Expecting value"),
        ("a.yaml", "", "", "a mapping"),
        ("a.yaml", "- 1\n", "", "a mapping"),
        ("a.yaml", "1: 2\n", "", "a text key"),
    ],
)
def test_a_malformed_file_is_one_line_with_the_place(
    write: Write, name: str, text: str, place: str, problem: str
) -> None:
    path = write(name, text)
    with pytest.raises(InputError) as caught:
        read_mapping(path)
    assert str(caught.value).startswith(f"{path}{place}: ")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_absurd_nesting_is_an_input_error(write: Write, suffix: str) -> None:
    path = write(f"a.{suffix}", "[" * 100_000)
    with pytest.raises(InputError):
        read_mapping(path)


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    missing, binary = tmp_path / "no.yaml", tmp_path / "b.yaml"
    binary.write_bytes(b"a: \xff\xfe")
    for path, form in [
        (missing, "an existing file"),
        (tmp_path, "not a folder"),
        (binary, "UTF-8"),
    ]:
        with pytest.raises(InputError, match=form) as caught:
            read_mapping(path)
        assert str(path) in str(caught.value)


def test_json_keeps_the_order_and_ends_with_a_newline() -> None:
    assert (
        dump_json({"b": 1, "a": [0.5]}) == '{\n  "b": 1,\n  "a": [\n    0.5\n  ]\n}\n'
    )


def test_json_never_writes_nan() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        dump_json({"a": float("nan")})


def test_writing_replaces_a_file_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_text_atomic(path, "old")
    write_text_atomic(path, "new")
    assert path.read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == ["out.json"]


def test_writing_into_a_missing_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a file that can be written"):
        write_text_atomic(tmp_path / "no" / "out.json", "text")
    with pytest.raises(InputError, match="a file that can be written"):
        write_text_atomic(tmp_path, "text")
    assert list(tmp_path.iterdir()) == []


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]))
    | st.sampled_from(["2e12", "1e5", "1.", ".5", "2024-01-01", "no", "null", "~"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc1.e"), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(data=plain)
def test_yaml_and_json_are_read_as_they_were_written(
    data: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    for name, dump, read in [
        ("rt.yaml", dump_yaml, read_yaml),
        ("rt.json", dump_json, read_json),
    ]:
        (folder / name).write_text(dump(data), encoding="utf-8")
        assert read(folder / name) == data
