"""ProfileTable: what a profiler measured, one self-contained JSON record a line.

Every record names its unit in its keys and carries the environment it was measured in
(device, driver, CUDA, torch), so that a line means the same wherever it is copied. A
line that cannot be read is named by its number and the others are kept; records of two
environments are never mixed unless the caller asks for it.
"""

import gzip
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Self

from clusters.fields import InputError, spec
from clusters.mapping import from_mapping, to_mapping
from models.profile_records import (
    CollectiveRecord,
    Environment,
    LinkRecord,
    RateRecord,
    Record,
    Status,
    StepRecord,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileTable:
    """Records of a file, and what of it could not be read."""

    records: tuple[Record, ...] = spec("Readable records, in order.")
    problems: tuple[str, ...] = spec("One line for each unreadable one.", default=())

    @property
    def steps(self) -> tuple[StepRecord, ...]:
        """The step records; of points measured again, the last."""
        found = {r.key: r for r in self.records if isinstance(r, StepRecord)}
        return tuple(found.values())

    @property
    def rates(self) -> tuple[RateRecord, ...]:
        """The ceilings."""
        return tuple(r for r in self.records if isinstance(r, RateRecord))

    @property
    def collectives(self) -> tuple[CollectiveRecord, ...]:
        """The collective operations."""
        return tuple(r for r in self.records if isinstance(r, CollectiveRecord))

    @property
    def links(self) -> tuple[LinkRecord, ...]:
        """The messages between hosts."""
        return tuple(r for r in self.records if isinstance(r, LinkRecord))

    def environment(self) -> Environment:
        """The one environment of all records.

        Raises
        ------
        InputError
            When there is no record, or two that were measured under other hardware or
            versions; the message names the first field that differs.
        """
        if not self.records:
            raise InputError("records", "none", "at least one readable record")
        first = self.records[0].environment
        for number, record in enumerate(self.records):
            other = record.environment
            if other != first:
                name, here, there = first_difference(first, other)
                raise InputError(
                    f"records[{number}].environment.{name}",
                    there,
                    f"{here!r}, as in the first record: profiles of different hardware "
                    "or versions are not mixed",
                )
        return first

    def with_unstable(self) -> Self:
        """The table with samples that did not settle taken as they are."""
        kept = tuple(
            replace(r, status=Status.OK)
            if isinstance(r, StepRecord) and r.status is Status.UNSTABLE
            else r
            for r in self.records
        )
        return type(self)(records=kept, problems=self.problems)

    def only(self, **fields: object) -> Self:
        """The records whose environment has these values."""
        kept = tuple(
            r
            for r in self.records
            if all(getattr(r.environment, k) == v for k, v in fields.items())
        )
        return type(self)(records=kept, problems=self.problems)


def first_difference(a: Environment, b: Environment) -> tuple[str, object, object]:
    """Name of the first field that differs, and both values."""
    for name in Environment.__dataclass_fields__:
        if getattr(a, name) != getattr(b, name):
            return name, getattr(a, name), getattr(b, name)
    raise ValueError("the environments are equal")


def read_profile_table(path: str | Path) -> ProfileTable:
    """Read a file of records (``.jsonl``, also ``.jsonl.gz``).

    Raises
    ------
    InputError
        When the file cannot be read at all. Lines that cannot be read are reported in
        `problems` with their number, and left out.
    """
    records, problems = [], []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            records.append(parse_record(line))
        except InputError as error:
            problems.append(f"{path}:{number}: left out: {error}")
    return ProfileTable(records=tuple(records), problems=tuple(problems))


def parse_record(line: bytes) -> Record:
    """The record of one line.

    Raises
    ------
    InputError
        When it is no JSON or no record.
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError("", line[:60].decode("utf-8", "replace"), "JSON") from error
    if not isinstance(data, dict):
        raise InputError("", data, "a record (a JSON object)")
    kinds = {
        "step": StepRecord,
        "rate": RateRecord,
        "collective": CollectiveRecord,
        "link": LinkRecord,
    }
    kind = data.get("kind")
    if kind not in kinds:
        raise InputError("kind", kind, f"one of {', '.join(kinds)}")
    record: Record = from_mapping(kinds[kind], data)
    return record


def format_record(record: Record) -> str:
    """The line of a record, with its end."""
    text = json.dumps(to_mapping(record), ensure_ascii=False, allow_nan=False)
    return text + "\n"


def write_profile_table(path: str | Path, records: Iterable[Record]) -> None:
    """Write records to a new file, compressed when the name ends with ``.gz``."""
    data = "".join(format_record(record) for record in records).encode()
    if str(path).endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        raise _unwritable(path, error) from None


class RecordWriter:
    """Appends records so that a kill at any moment loses at most the last one.

    A line that an earlier writer left unfinished is removed first.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            _drop_unfinished_line(self._path)
            self._file: BinaryIO = self._path.open("ab")
        except OSError as error:
            raise _unwritable(path, error) from None

    def append(self, record: Record) -> None:
        """Write one record through to the disk."""
        self._file.write(format_record(record).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _drop_unfinished_line(path: Path) -> None:
    if not path.is_file():
        return
    with path.open("rb+") as file:
        data = file.read()
        if data and not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)


def _lines(path: str | Path) -> Iterator[bytes]:
    try:
        data = Path(path).read_bytes()
        if str(path).endswith(".gz"):
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise InputError("", str(path), "an existing file", file=str(path)) from None
    except (OSError, EOFError) as error:
        form = f"a readable file of records ({error})"
        raise InputError("", str(path), form, file=str(path)) from None
    return iter(data.splitlines())


def _unwritable(path: str | Path, error: OSError) -> InputError:
    form = f"a file that can be written ({error.strerror})"
    return InputError("", str(path), form, file=str(path))
