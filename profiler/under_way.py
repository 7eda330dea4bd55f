"""UnderWay: a note of the point that is being measured, for who comes after a crash.

A point that took the process down with it (a hanging or faulting kernel) would do so
again. So its key is written down while it is measured; a process that is started again
after a crash, and told so, records it as not measured.
"""

from dataclasses import dataclass
from pathlib import Path

from clusters.fields import spec
from clusters.serde import read_text, write_text_atomic


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """The note that belongs to a file of records."""

    path: Path = spec("File of the note.")

    @classmethod
    def beside(cls, records: str | Path) -> "UnderWay":
        """The note of a campaign that appends to `records`."""
        return cls(path=Path(f"{records}.under_way"))

    def begin(self, key: str) -> None:
        """Note a point that is about to be measured."""
        write_text_atomic(self.path, key)

    def end(self) -> None:
        """Nothing is being measured any more."""
        self.path.unlink(missing_ok=True)

    def key(self) -> str | None:
        """The point that was being measured when a process ended, if there is one."""
        return read_text(self.path) if self.path.exists() else None
