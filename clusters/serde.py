"""Reading and writing the files of a user: strict YAML and JSON, atomic writes.

A file that is missing, malformed or says a key twice is an `InputError` of one line
that names the file and the place. The strict step from plain data to dataclasses is in
`clusters.mapping`; its two functions are offered here too, since they go together.
"""

import json
import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from clusters.fields import InputError
from clusters.mapping import from_mapping, to_mapping

if TYPE_CHECKING:
    _Loader = yaml.SafeLoader
else:
    # The C parser reads the catalogue about ten times faster; not every build has it.
    _Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

__all__ = [
    "dump_json",
    "dump_yaml",
    "from_mapping",
    "parse_yaml",
    "read_json",
    "read_mapping",
    "read_text",
    "read_yaml",
    "to_mapping",
    "write_text_atomic",
]

_MAX_DEPTH = 100
_FLOAT_TAG = "tag:yaml.org,2002:float"
_FLOAT = re.compile(
    r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$"
    r"|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
)


class _StrictLoader(_Loader):
    """Safe YAML where a duplicate key is an error and ``2e12`` is a number.

    Dates stay text, as in JSON.
    """

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            is_text = isinstance(key_node, yaml.ScalarNode)
            if not is_text or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = key_node.value
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key!r}", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Safe YAML output that our loader reads back as the same values."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _set_resolvers() -> None:
    """Make both classes read numbers as YAML 1.2 does, and dates as text."""
    for cls in (_StrictLoader, _Dumper):
        cls.yaml_implicit_resolvers = {
            first: [
                (tag, pattern)
                for tag, pattern in resolvers
                if tag not in ("tag:yaml.org,2002:timestamp", _FLOAT_TAG)
            ]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }
        cls.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+0123456789."))


_set_resolvers()


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file.

    Raises
    ------
    InputError
        If there is no such file, or it is a folder, unreadable or not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        problem = "an existing file"
    except IsADirectoryError:
        problem = "a file, not a folder"
    except UnicodeDecodeError as error:
        problem = f"UTF-8 text (byte {error.start} is not)"
    except OSError as error:
        problem = f"a readable file ({error.strerror})"
    raise InputError("", str(path), problem, file=str(path))


def read_yaml(path: str | Path) -> object:
    """Plain data of a YAML file (one document).

    Raises
    ------
    InputError
        With line and column where the syntax is wrong or a key is given twice.
    """
    return parse_yaml(read_text(path), path)


def parse_yaml(text: str, path: str | Path) -> object:
    """Plain data of YAML text; `path` names where it comes from in errors."""
    try:
        _check_depth(text, path)
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "malformed"
        raise _syntax_error(path, text, problem, mark) from None
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise InputError("", "...", f"YAML ({problem})", file=str(path)) from None
    except InputError:
        raise
    except ValueError as error:
        raise InputError("", "...", f"YAML ({error})", file=str(path)) from None


def read_json(path: str | Path) -> object:
    """Plain data of a JSON file; ``NaN`` and duplicate keys are refused.

    Raises
    ------
    InputError
        With line and column where the syntax is wrong.
    """
    text = read_text(path)

    def refuse_constant(word: str) -> None:
        raise InputError("", word, "a finite number", file=str(path))

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise InputError(key, value, "the key once", file=str(path))
            found[key] = value
        return found

    try:
        return json.loads(
            text, parse_constant=refuse_constant, object_pairs_hook=unique
        )
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}:{error.colno}"
        line = _line(text, error.lineno)
        raise InputError("", line, f"JSON ({error.msg})", file=place) from None
    except InputError:
        raise
    except ValueError as error:
        raise InputError("", "...", f"JSON ({error})", file=str(path)) from None
    except RecursionError:
        raise InputError(
            "", "...", "JSON that is not nested so deeply", file=str(path)
        ) from None


def read_mapping(path: str | Path) -> dict[str, Any]:
    """A YAML or JSON file (by its suffix) that holds one mapping with text keys."""
    data = read_json(path) if Path(path).suffix == ".json" else read_yaml(path)
    if not isinstance(data, dict):
        raise InputError("", data, "a mapping (key: value)", file=str(path))
    for key in data:
        if not isinstance(key, str):
            raise InputError(str(key), key, "a text key", file=str(path))
    return data


def dump_yaml(data: object) -> str:
    """YAML text in the order of the data; equal data gives equal bytes."""
    return str(
        yaml.dump(
            data,
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=False,
        )
    )


def dump_json(data: object) -> str:
    """JSON text in the order of the data, 2 spaces, ending with a newline."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write a whole text file or nothing (`write_bytes_atomic`)."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_bytes_atomic(path: str | Path, content: bytes) -> None:
    """Write a whole file or nothing: a new file takes the place of the old one.

    Raises
    ------
    InputError
        If the folder does not exist or cannot be written.
    """
    target = Path(path)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        if target.exists() and not target.is_file():
            # A device or a pipe (-o /dev/stdout) is written to, never replaced.
            target.write_bytes(content)
            return
        scratch.write_bytes(content)
        scratch.replace(target)
    except OSError as error:
        problem = f"a file that can be written ({error.strerror})"
        raise InputError("", str(path), problem, file=str(path)) from None
    finally:
        scratch.unlink(missing_ok=True)


def _check_depth(text: str, path: str | Path) -> None:
    """Refuse nesting that would overflow the stack of the C parser."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            form = f"YAML nested at most {_MAX_DEPTH} deep"
            raise InputError("", "...", form, file=str(path))


def _syntax_error(
    path: str | Path, text: str, problem: str, mark: yaml.Mark | None
) -> InputError:
    if mark is None:
        return InputError("", "...", f"YAML ({problem})", file=str(path))
    place = f"{path}:{mark.line + 1}:{mark.column + 1}"
    line = _line(text, mark.line + 1)
    return InputError("", line, f"YAML ({problem})", file=place)


def _line(text: str, number: int) -> str:
    lines = text.splitlines()
    return lines[number - 1].strip() if number <= len(lines) else "end of file"
