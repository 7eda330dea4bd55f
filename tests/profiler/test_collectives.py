"""Collectives run on real processes, and count bytes as nccl-tests do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="collectives need torch")

from models.profile_table import read_profile_table
from profiler.collectives import OPERATIONS, bus_factor

ROOT = Path(__file__).resolve().parents[2]
SIZES = (1024, 65536)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_every_operation_runs_on_gloo(tmp_path: Path, processes: int) -> None:
    path = tmp_path / "collectives.jsonl"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(processes), "-m", "profiler.collectives"),
            *("--out", str(path), "--device", "cpu", "--samples", "6"),
            *("--bytes", *map(str, SIZES)),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    records = read_profile_table(path).collectives
    measured = {(r.operation, r.message_bytes) for r in records}
    assert measured == {(o, size) for o in OPERATIONS for size in SIZES}
    assert {(r.library, r.num_ranks) for r in records} == {("gloo", processes)}
    assert all(r.bus_bytes_per_s > 0 for r in records)


@pytest.mark.parametrize(
    ("operation", "factor"),
    # Of 4 processes: a ring all-reduce carries each byte 2 * 3/4 times.
    [("all_reduce", 1.5), ("all_gather", 0.75), ("all_to_all", 0.75), ("send_recv", 1)],
)
def test_bus_factor(operation: str, factor: float) -> None:
    assert bus_factor(operation, 4) == factor
