"""Shell text: the only place where values become words of a shell script.

A word is text, a variable, or a sequence of both; text is quoted by `shlex.quote`, a
variable by double quotes, each on its own, so no value can end its word or start a
command. Text for comments and documents is reduced to one printable line.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from clusters.fields import InputError, spec


@dataclass(frozen=True, slots=True)
class Variable:
    """A shell variable, to be expanded when the script runs."""

    name: str = spec("Its name.")

    def __post_init__(self) -> None:
        if not (self.name.isascii() and self.name.isidentifier()):
            raise InputError("variable", self.name, "a name of letters, digits and _")


Word = str | Variable | tuple[str | Variable, ...]
"""One word of a command: text, a variable, or both joined."""


def quoted(word: Word) -> str:
    """A word as it stands in a script.

    Examples
    --------
    >>> quoted("two words")
    "'two words'"
    >>> quoted(("http://", Variable("HOST_0"), ":8100"))
    'http://"${HOST_0}":8100'
    """
    parts = word if isinstance(word, tuple) else (word,)
    text = "".join(_quoted_part(part) for part in parts if part != "")
    return text or "''"


def assignment(name: str, word: Word) -> str:
    """A line that sets a variable of the script."""
    return f"{Variable(name).name}={quoted(word)}"


def export_line(name: str, word: Word) -> str:
    """A line that sets a variable of the environment."""
    return f"export {assignment(name, word)}"


def command_lines(words: Sequence[Word], options: Sequence[Sequence[Word]]) -> str:
    """A command on several lines: its first words, then each option with its values.

    Arguments of the script itself come last, so that a user can add some.
    """
    lines = [words, *options]
    text = [" ".join(quoted(word) for word in line) for line in lines]
    return " \\\n  ".join([*text, '"$@"'])


def comment(text: str) -> str:
    """A comment of one line, whatever `text` holds."""
    return f"# {one_line(text)}".rstrip()


def one_line(text: str) -> str:
    """`text` as one line of printable characters, with single spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _quoted_part(part: str | Variable) -> str:
    if isinstance(part, Variable):
        return f'"${{{part.name}}}"'
    if "\0" in part or not _is_encodable(part):
        raise InputError("", part, "text that a shell script can hold")
    return shlex.quote(part)


def _is_encodable(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)
