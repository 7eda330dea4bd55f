"""KV-cache blocks of a replica: who holds how many, and how a run of steps grows them.

A request that attends to c tokens holds ceil(c / block_tokens) blocks. Over a run, a
member takes a new block each time its context passes a multiple of the block size, so
the growth of a group over any number of steps follows from how many members have each
remainder (`residues`), without touching the members.
"""

from typing import Any

from planner.simulator.compiled import compiled, inlined
from planner.simulator.state import NONE


@inlined
def num_blocks(tokens: int, block_tokens: int) -> int:
    """Blocks that hold `tokens`."""
    return (tokens + block_tokens - 1) // block_tokens


@inlined
def stays(w: Any, replica: int, request: int) -> bool:
    """Whether `request`, which is at `replica`, decodes there."""
    decoder = w.request[request].decode_replica
    return bool(
        decoder == replica or (decoder == NONE and w.replica[replica].decodes == 1)
    )


@compiled
def blocks_for(w: Any, replica: int, request: int, context: int) -> int:
    """Blocks that `request` holds while it attends to `context` tokens.

    Those of its prompt and its whole output where these are reserved. Tokens that a
    failure has made part of the prompt are no longer reserved beside it.
    """
    rep = w.replica[replica]
    tokens = context
    if rep.reserves_output and stays(w, replica, request):
        req = w.request[request]
        reserved = rep.reserved_output - req.streamed_tokens
        tokens = req.input_tokens + max(req.output_tokens, reserved)
    return int(num_blocks(tokens, rep.block_tokens))


@compiled
def can_allocate(w: Any, replica: int, blocks: int) -> bool:
    """Whether `blocks` fit; a watermark stays free unless the replica is empty."""
    rep = w.replica[replica]
    if rep.free_blocks == rep.capacity_blocks:
        return bool(blocks <= rep.free_blocks)
    return bool(blocks + rep.watermark_blocks <= rep.free_blocks)


@compiled
def allocate(w: Any, replica: int, blocks: int) -> None:
    """Take `blocks` (negative: give back), recording occupancy up to now."""
    record_occupancy(w, replica)
    rep = w.replica[replica]
    rep.free_blocks -= blocks
    if rep.free_blocks < rep.least_free_blocks:
        rep.least_free_blocks = rep.free_blocks
    used = rep.capacity_blocks - rep.free_blocks
    rep.kv_last_blocks = used
    if used > rep.kv_peak_blocks:
        rep.kv_peak_blocks = used


@inlined
def grow_to_now(w: Any, replica: int, blocks: int) -> None:
    """Take the blocks that a run has filled little by little since the last record."""
    rep = w.replica[replica]
    rep.free_blocks -= blocks
    if rep.free_blocks < rep.least_free_blocks:
        rep.least_free_blocks = rep.free_blocks
    record_occupancy(w, replica)
    used = rep.capacity_blocks - rep.free_blocks
    if used > rep.kv_peak_blocks:
        rep.kv_peak_blocks = used


@compiled
def record_occupancy(w: Any, replica: int) -> None:
    """Add the occupancy since the last change to the integral and to the samples."""
    clock = w.clock[0]
    rep = w.replica[replica]
    used = float(rep.capacity_blocks - rep.free_blocks)
    span = clock.now_ms - rep.kv_last_ms
    if span > 0.0:
        rep.kv_block_ms += 0.5 * (rep.kv_last_blocks + used) * span
        last = w.kv_samples.shape[1]
        while rep.next_sample < last:
            at = rep.next_sample * clock.sample_ms
            if at > clock.now_ms:
                break
            share = max(0.0, at - rep.kv_last_ms) / span
            value = rep.kv_last_blocks + share * (used - rep.kv_last_blocks)
            w.kv_samples[replica, rep.next_sample] = value
            rep.next_sample += 1
    rep.kv_last_ms = clock.now_ms
    rep.kv_last_blocks = used


@compiled
def growth(w: Any, group: int, from_step: int, to_step: int, block_tokens: int) -> int:
    """Blocks that the members of `group` take between two steps."""
    grp = w.group[group]
    if w.replica[grp.replica].reserves_output:
        return 0
    steps = to_step - from_step
    cycles = steps // block_tokens
    blocks = cycles * grp.num_members
    residue = (-from_step) % block_tokens
    for _ in range(steps - cycles * block_tokens):
        blocks += w.residues[group, residue]
        residue = previous_residue(residue, block_tokens)
    return int(blocks)


@inlined
def previous_residue(residue: int, block_tokens: int) -> int:
    """Remainder of the members that take a block one step later."""
    return block_tokens - 1 if residue == 0 else residue - 1


@compiled
def steps_that_fit(w: Any, group: int, wanted: int, block_tokens: int) -> int:
    """How many of `wanted` steps from the covered one on fit the free blocks (>= 1)."""
    grp = w.group[group]
    rep = w.replica[grp.replica]
    free = rep.free_blocks
    if rep.reserves_output or (wanted // block_tokens + 1) * grp.num_members <= free:
        return wanted
    start = grp.covered_step
    fits = max(0, free // grp.num_members - 1) * block_tokens
    fits = min(fits, wanted - 1)
    used = growth(w, group, start, start + fits, block_tokens)
    residue = (-(start + fits)) % block_tokens
    while fits < wanted - 1:
        used += w.residues[group, residue]
        if used > free:
            break
        residue = previous_residue(residue, block_tokens)
        fits += 1
    return int(fits + 1)
