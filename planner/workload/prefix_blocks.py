"""PrefixBlocks: which blocks of a prompt other prompts share, as two flat arrays.

A prompt is cut into blocks of equal length, and a block is named after its own tokens
and all those before it (Qin et al., "Mooncake", FAST 2025, section 4). So two prompts
that begin alike have the same first ids, and what a prompt shares with a cache is the
run of its ids from the start. A million prompts of 25 blocks take 200 MB.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clusters.fields import InputError, check_fields, spec

IntArray = NDArray[np.int64]

MOONCAKE_BLOCK_TOKENS = 512
"""Tokens of a block in Mooncake's traces."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefixBlocks:
    """Block ids of every request, one request after the other.

    Attributes
    ----------
    ids
        All block ids, shape ``(num_blocks,)``.
    offsets
        Where the blocks of each request begin, shape ``(num_requests + 1,)``, from 0.
    """

    ids: IntArray = spec("Block ids.")
    offsets: IntArray = spec("First block of each request, and the end.")
    block_tokens: int = spec(
        "Tokens of a block; the last of a prompt may be shorter.",
        unit="tokens",
        gt=0,
        default=MOONCAKE_BLOCK_TOKENS,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        ends = self.offsets
        is_rising = len(ends) > 0 and ends[0] == 0 and (np.diff(ends) >= 0).all()
        if not is_rising or ends[-1] != len(self.ids):
            raise InputError(
                "offsets", "...", f"rising numbers from 0 to {len(self.ids)}"
            )

    @classmethod
    def of(
        cls,
        rows: Iterable[Iterable[int]],
        *,
        block_tokens: int = MOONCAKE_BLOCK_TOKENS,
    ) -> Self:
        """From the ids of each request."""
        lists = [list(row) for row in rows]
        return cls(
            ids=np.fromiter(chain.from_iterable(lists), dtype=np.int64),
            offsets=_ends(np.array([len(row) for row in lists], dtype=np.int64)),
            block_tokens=block_tokens,
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def rows(self) -> tuple[tuple[int, ...], ...]:
        """The ids of each request."""
        ids, ends = self.ids.tolist(), self.offsets.tolist()
        return tuple(tuple(ids[start:end]) for start, end in pairwise(ends))

    def take(self, index: IntArray) -> Self:
        """Those of the requests at `index`, shape ``(num_taken,)``."""
        counts = np.diff(self.offsets)[index]
        ends = _ends(counts)
        shift = np.repeat(self.offsets[index] - ends[:-1], counts)
        return type(self)(
            ids=self.ids[np.arange(len(shift)) + shift],
            offsets=ends,
            block_tokens=self.block_tokens,
        )

    def num_repeated(self) -> IntArray:
        """Leading blocks of each request that earlier requests have had.

        That is what a cache without limit would hold, shape ``(num_requests,)``.
        """
        _, first, which = np.unique(self.ids, return_index=True, return_inverse=True)
        counts = np.diff(self.offsets)
        start = np.repeat(self.offsets[:-1], counts)
        position = np.arange(len(self.ids)) - start
        run = counts.copy()
        is_new = first[which] >= start
        owner = np.repeat(np.arange(len(self)), counts)
        np.minimum.at(run, owner[is_new], position[is_new])
        return run

    def renamed(self, lap: IntArray) -> Self:
        """Ids that no two laps share; `lap` counts from 0, shape ``(num_requests,)``.

        Those of lap 0 stay as they are.
        """
        if len(self.ids) == 0 or not lap.any():
            return self
        num_ids = int(self.ids.max() - self.ids.min()) + 1
        return type(self)(
            ids=self.ids + np.repeat(lap * num_ids, np.diff(self.offsets)),
            offsets=self.offsets,
            block_tokens=self.block_tokens,
        )


def _ends(counts: IntArray) -> IntArray:
    ends = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=ends[1:])
    return ends
