"""Words of shell lines: whatever they hold, they stay one word."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.fields import InputError
from planner.export.shell import (
    Variable,
    assignment,
    command_lines,
    comment,
    export_line,
    one_line,
    quoted,
)

# Everything a shell might act on, beside any other text without NUL and surrogates.
texts = st.one_of(
    st.text(alphabet="'\"`$(){}\\;&|<>*?~#! \n\r\t-=a1é", max_size=12),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
)

SHOW = (sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))")


def bash(script: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        capture_output=True,
        check=True,
        timeout=20,
    )
    return done.stdout.decode("utf-8")


@settings(max_examples=15, deadline=None)
@given(st.lists(texts, max_size=40))
def test_a_command_gets_exactly_the_words_it_was_given(words: list[str]) -> None:
    script = command_lines(SHOW, [(word,) for word in words])
    assert json.loads(bash(script)) == words


@settings(max_examples=15, deadline=None)
@given(value=texts, before=texts, after=texts)
def test_a_variable_joins_the_text_around_it(
    value: str, before: str, after: str
) -> None:
    script = assignment("X", value) + "\n"
    script += command_lines(SHOW, [((before, Variable("X"), after),)])
    assert json.loads(bash(script)) == [before + value + after]


@given(texts)
def test_a_comment_is_one_printable_line(text: str) -> None:
    line = comment(text)
    assert line.startswith("#")
    assert line.isprintable()
    assert len(line.splitlines()) == 1


def test_words_are_quoted_only_where_they_must_be() -> None:
    assert quoted("--port") == "--port"
    assert quoted("") == "''"
    assert quoted("it's") == "'it'\"'\"'s'"
    assert quoted(Variable("MODEL")) == '"${MODEL}"'
    assert export_line("A", "1 2") == "export A='1 2'"


def test_lines_of_a_text_become_one() -> None:
    assert one_line(" a\n\tb\x1b[31m\u2028c ") == "a b [31m c"


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_text_that_no_script_can_hold_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="a shell script can hold"):
        quoted(text)


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A;rm", "é"])
def test_a_variable_has_a_plain_name(name: str) -> None:
    with pytest.raises(InputError, match="variable"):
        Variable(name)
