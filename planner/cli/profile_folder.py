"""The folder of a campaign: what an earlier run left there, kept small."""

import gzip
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clusters.fields import InputError
from clusters.serde import read_mapping, write_text_atomic

_EARLY = ("plan", "features", "ceilings")
"""Stages in which features of the device are tried for the first time."""
_RECORDS = ("records.jsonl", "repeat.jsonl")


def begin_campaign(
    out: Path, *, after_crash: bool, crashing: Callable[[], Sequence[str]]
) -> dict[str, Any]:
    """What earlier runs in the folder said of themselves, a crash taken into account.

    A crash counts against the stage that was under way. Where features of the device
    were being tried, those that crash are found and left out from then on.

    Parameters
    ----------
    out
        The folder, which is there.
    after_crash
        Whether the run before this one ended by itself.
    crashing
        Finds the features that take a process down.
    """
    from profiler.features import LEFT_OUT

    summary = _read_summary(out / "summary.json")
    left_out = list(summary.get("left_out", []))
    if after_crash:
        stage = summary.get("under_way", "")
        crashes = summary.setdefault("crashes", {})
        crashes[stage] = crashes.get(stage, 0) + 1
        if stage in _EARLY:
            left_out += [name for name in crashing() if name not in left_out]
    if left_out:
        summary["left_out"] = left_out
        os.environ[LEFT_OUT] = ",".join(left_out)
    summary["under_way"] = _EARLY[0]
    write_summary(out, summary)
    return summary


def write_summary(out: Path, summary: Mapping[str, Any]) -> None:
    """Write ``summary.json``."""
    text = json.dumps(summary, indent=2, allow_nan=False, default=str)
    write_text_atomic(out / "summary.json", text + "\n")


def _read_summary(path: Path) -> dict[str, Any]:
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
