"""HostLinks: messages between every two hosts, there and back.

The processes of one host send to those of the other, all pairs at once, so that all
NICs are used as KV transfers use them. Half the time of there and back needs no common
clock. The other hosts wait.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
import torch.distributed as dist

from models.profile_records import LinkRecord
from profiler.collectives import Group, slowest_ms
from profiler.environment import environment_of
from profiler.timing import spread_of


def measure_links(
    group: Group, sizes: Sequence[int], *, num_samples: int = 15
) -> list[LinkRecord]:
    """Records of every two hosts and every message size; all processes must call it."""
    ranks: dict[str, list[int]] = {}
    for rank, host in enumerate(group.hosts):
        ranks.setdefault(host, []).append(rank)
    records = []
    for first, second in combinations(ranks, 2):
        peers = dict(zip(ranks[first], ranks[second], strict=False))
        for size in sizes:
            call = _there_and_back(group, peers, size)
            times = slowest_ms(group, call, num_samples=num_samples)
            records.append(
                LinkRecord(
                    environment=environment_of(group.device),
                    library=group.library,
                    hosts=(first, second),
                    num_pairs=len(peers),
                    message_bytes=size,
                    spread=spread_of(times / 2.0),
                )
            )
    return records


def _there_and_back(
    group: Group, peers: dict[int, int], size: int
) -> Callable[[], object]:
    """A message to the peer and its answer; nothing for processes without one."""
    message = torch.ones(size, dtype=torch.int8, device=group.device.torch_device)
    back = {second: first for first, second in peers.items()}

    def exchange() -> None:
        if group.rank in peers:
            dist.send(message, peers[group.rank])
            dist.recv(message, peers[group.rank])
        elif group.rank in back:
            dist.recv(message, back[group.rank])
            dist.send(message, back[group.rank])

    return exchange
