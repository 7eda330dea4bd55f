"""Collectives: all-reduce and its kin by message size, through torch.distributed.

Started once a process by torchrun, on one or many hosts:

    torchrun --nproc-per-node 8 -m profiler.collectives --out collectives.jsonl

NCCL on GPUs, gloo on CPUs. A call is as slow as its slowest process, so the maximum
over the processes counts. Bus bandwidth is counted as nccl-tests do: what a link
carries. With ``--links``, messages between every two hosts as well (`host_links`).
"""

import argparse
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from itertools import product

import numpy as np
import torch
import torch.distributed as dist

from clusters.fields import spec
from clusters.units import MS_PER_S
from models.profile_records import CollectiveRecord, Record
from models.profile_table import RecordWriter
from profiler.environment import Device, environment_of
from profiler.timing import FloatArray, spread_of

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
HOST_VARIABLE = "PHASEPLAN_HOST"
"""Environment variable: the name of this host in records, instead of its own."""
_DEFAULT_BYTES = tuple(1 << power for power in range(10, 29, 3))
_LIMIT = timedelta(seconds=60)
"""Longest wait for another process: a lost one ends the run, it does not hang it."""
_WARMUP = 3


@dataclass(frozen=True, slots=True)
class Group:
    """The place of one process among all."""

    rank: int = spec("Number of this process.", unit="1")
    size: int = spec("Processes.", unit="processes")
    num_nodes: int = spec("Hosts.", unit="nodes")
    device: Device = spec("Its device.")
    library: str = spec("nccl or gloo.")
    hosts: tuple[str, ...] = spec("Host of each process, by rank.")


def bus_factor(operation: str, num_ranks: int) -> float:
    """Bytes a link carries for each byte of the buffer (nccl-tests, PERFORMANCE.md)."""
    if operation == "all_reduce":
        return 2.0 * (num_ranks - 1) / num_ranks
    if operation == "send_recv":
        return 1.0
    return (num_ranks - 1) / num_ranks


def join_group(device: str = "auto") -> Group:
    """Join the processes that torchrun started."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    wanted = device
    if device == "auto":
        wanted = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    chosen = Device.open(wanted)
    library = "nccl" if chosen.is_cuda else "gloo"
    dist.init_process_group(library, timeout=_LIMIT)
    size = dist.get_world_size()
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
    hosts: list[str] = [""] * size
    dist.all_gather_object(hosts, os.environ.get(HOST_VARIABLE) or socket.gethostname())
    num_nodes = max(1, size // local_size)
    return Group(dist.get_rank(), size, num_nodes, chosen, library, tuple(hosts))


def measure_collective(
    group: Group, operation: str, message_bytes: int, *, num_samples: int = 15
) -> CollectiveRecord:
    """Time one operation on a buffer of `message_bytes`; every process must call it."""
    call = _call(group, operation, message_bytes)
    spread = spread_of(slowest_ms(group, call, num_samples=num_samples))
    carried = bus_factor(operation, group.size) * message_bytes
    return CollectiveRecord(
        environment=environment_of(group.device),
        operation=operation,
        library=group.library,
        num_ranks=group.size,
        num_nodes=group.num_nodes,
        message_bytes=message_bytes,
        spread=spread,
        bus_bytes_per_s=carried / spread.ms * MS_PER_S,
    )


def _call(group: Group, operation: str, message_bytes: int) -> Callable[[], object]:
    """The operation on a buffer of this size, all processes together."""
    size = group.size
    count = max(size, message_bytes // 4 // size * size)
    where = group.device.torch_device
    whole = torch.ones(count, device=where)
    part = torch.ones(count // size, device=where)
    if operation == "all_reduce":
        return lambda: dist.all_reduce(whole)
    if operation == "all_gather":
        return lambda: dist.all_gather_into_tensor(whole, part)
    if operation == "reduce_scatter":
        return lambda: _reduce_scatter(group, whole, part)
    if operation == "all_to_all":
        return lambda: _all_to_all(group, whole)
    return lambda: _ring_shift(group, whole)


def _reduce_scatter(group: Group, whole: torch.Tensor, part: torch.Tensor) -> None:
    if group.library == "nccl":
        dist.reduce_scatter_tensor(part, whole)
        return
    dist.reduce_scatter(part, list(whole.chunk(group.size)))


def _all_to_all(group: Group, whole: torch.Tensor) -> None:
    received = torch.empty_like(whole)
    if group.library == "nccl":
        dist.all_to_all_single(received, whole)
        return
    # Gloo has point-to-point messages only.
    sent, got = whole.chunk(group.size), received.chunk(group.size)
    waits = []
    for shift in range(1, group.size):
        to, source = (
            (group.rank + shift) % group.size,
            (group.rank - shift) % group.size,
        )
        waits.append(dist.isend(sent[to].contiguous(), to))
        waits.append(dist.irecv(got[source], source))
    for wait in waits:
        if wait is not None:
            wait.wait()


def _ring_shift(group: Group, whole: torch.Tensor) -> None:
    """Every process sends to the next one and receives from the one before."""
    received = torch.empty_like(whole)
    to, source = (group.rank + 1) % group.size, (group.rank - 1) % group.size
    operations = [
        dist.P2POp(dist.isend, whole, to),
        dist.P2POp(dist.irecv, received, source),
    ]
    for work in dist.batch_isend_irecv(operations):
        work.wait()


def slowest_ms(
    group: Group, call: Callable[[], object], *, num_samples: int
) -> FloatArray:
    """Times of `call` by the slowest process, shape ``(num_samples,)``, in ms.

    Every process must call it.
    """
    times = np.array([_one_ms(group, call) for _ in range(_WARMUP + num_samples)])
    return _maximum(group, times[_WARMUP:])


def _one_ms(group: Group, call: Callable[[], object]) -> float:
    dist.barrier()
    _wait_for_device(group)
    began = time.perf_counter()
    call()
    _wait_for_device(group)
    return (time.perf_counter() - began) * MS_PER_S


def _wait_for_device(group: Group) -> None:
    if group.device.is_cuda:
        torch.cuda.synchronize()


def _maximum(group: Group, times: FloatArray) -> FloatArray:
    """Element by element, the time of the slowest process."""
    shared = torch.tensor(times, dtype=torch.float64, device=group.device.torch_device)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    found: FloatArray = shared.cpu().numpy()
    return found


def _records(group: Group, chosen: argparse.Namespace) -> Iterator[Record]:
    """Every operation and size, then the links between hosts."""
    for operation, size in product(chosen.operations, chosen.bytes):
        yield measure_collective(group, operation, size, num_samples=chosen.samples)
    if chosen.links:
        from profiler.host_links import measure_links

        yield from measure_links(group, chosen.bytes, num_samples=chosen.samples)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every operation and size; the first process writes the records."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", required=True, help="file to append records to")
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument("--bytes", type=int, nargs="+", default=_DEFAULT_BYTES)
    parser.add_argument("--samples", type=int, default=15)
    parser.add_argument(
        "--operations", nargs="*", default=OPERATIONS, choices=OPERATIONS
    )
    parser.add_argument("--links", action="store_true", help="between hosts as well")
    chosen = parser.parse_args(arguments)
    group = join_group(chosen.device)
    try:
        with ExitStack() as held:
            # Each record is on the disk before the next one starts.
            writer = None
            if group.rank == 0:
                writer = held.enter_context(RecordWriter(chosen.out))
            for record in _records(group, chosen):
                if writer is not None:
                    writer.append(record)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
