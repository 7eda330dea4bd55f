"""The folder of a campaign: what an earlier run left there, kept small."""

import gzip
from pathlib import Path
from typing import Any

from clusters.fields import InputError
from clusters.serde import read_mapping

_RECORDS = ("records.jsonl", "repeat.jsonl")


def read_summary(path: Path) -> dict[str, Any]:
    """What earlier runs in the same folder said of themselves."""
    try:
        return read_mapping(path) if path.exists() else {}
    except InputError:  # whatever happened to it, the records are what counts
        return {}


def pack(out: Path) -> None:
    """Compress the records: those of a campaign take some megabytes."""
    for path in (out / name for name in _RECORDS):
        if path.exists():
            data = gzip.compress(path.read_bytes(), mtime=0)
            Path(f"{path}.gz").write_bytes(data)
            path.unlink()


def unpack(out: Path) -> None:
    """Records of a campaign that had ended, to go on with."""
    for path in (out / name for name in _RECORDS):
        packed = Path(f"{path}.gz")
        if packed.exists():
            if not path.exists():
                path.write_bytes(gzip.decompress(packed.read_bytes()))
            packed.unlink()
