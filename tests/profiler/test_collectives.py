"""Collectives run on real processes, and count bytes as nccl-tests do."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="collectives need torch")

from models.measured_links import fit_links
from models.profile_table import read_profile_table
from profiler.collectives import HOST_VARIABLE, OPERATIONS, bus_factor

ROOT = Path(__file__).resolve().parents[2]
SIZES = (1024, 65536)
LINK_SIZES = (1024, 16 << 20)
"""Far enough apart that noise does not turn them round."""


@pytest.mark.slow
def test_every_operation_runs_on_gloo(tmp_path: Path) -> None:
    path = tmp_path / "collectives.jsonl"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "4", "-m", "profiler.collectives"),
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
    assert {(r.library, r.num_ranks) for r in records} == {("gloo", 4)}
    assert all(r.bus_bytes_per_s > 0 for r in records)


@pytest.mark.slow
def test_two_hosts_are_told_apart_and_their_link_measured(tmp_path: Path) -> None:
    """Two agents of two processes each, as on two machines, under two names."""
    path = tmp_path / "links.jsonl"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agents = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"),
                *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"),
                *("--rdzv-id", "links", "--nproc-per-node", "2"),
                *("-m", "profiler.collectives", "--out", str(path), "--links"),
                *("--device", "cpu", "--samples", "6", "--operations"),
                *("--bytes", *map(str, LINK_SIZES)),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(ROOT),
                HOST_VARIABLE: host,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for host in ("east", "west")
    ]
    try:
        for agent in agents:
            _, errors = agent.communicate(timeout=110)
            assert agent.returncode == 0, errors
    finally:
        for agent in agents:
            agent.kill()
    links = read_profile_table(path).links
    assert [(set(r.hosts), r.num_pairs, r.message_bytes) for r in links] == [
        ({"east", "west"}, 2, size) for size in LINK_SIZES
    ]
    assert {r.library for r in links} == {"gloo"}
    (found,) = fit_links(links)
    assert found.bytes_per_s > 0


@pytest.mark.parametrize(
    ("operation", "factor"),
    # Of 4 processes: a ring all-reduce carries each byte 2 * 3/4 times.
    [("all_reduce", 1.5), ("all_gather", 0.75), ("all_to_all", 0.75), ("send_recv", 1)],
)
def test_bus_factor(operation: str, factor: float) -> None:
    assert bus_factor(operation, 4) == factor
