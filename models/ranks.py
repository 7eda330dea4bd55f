"""Ranks: how the tokens of a step fall on the ranks of a stage.

Attention-data-parallel ranks serve different requests, context-parallel ranks
different parts of the same prompts. A step ends with its fullest rank, because ranks
meet at every layer of routed experts and at every turn of the ring.

Assumes
    Requests differ by at most one between attention ranks, and have the same mean
    context there. Prompts are dealt whole, one after the other, to the rank with the
    fewest; they have one length, or cut to any size where none is stated. Context
    ranks share every prompt evenly, its masked half too (each takes a piece from both
    ends: Brandon et al., "Striped Attention", 2023, arXiv 2311.09431).
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from clusters.fields import check_fields, spec

Tokens = TypeVar("Tokens", float, NDArray[np.float64])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Groups of GPUs of a stage that work on different tokens."""

    attention_dp: int = spec("Ranks by request.", unit="ranks", ge=1, default=1)
    cp: int = spec("Ranks by part of a prompt.", unit="ranks", ge=1, default=1)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def count(self) -> int:
        """All of them."""
        return self.attention_dp * self.cp

    def attended(self, tokens: Tokens, prompt_tokens: float | None = None) -> Tokens:
        """Prompt tokens whose attention the fullest attention rank does.

        `prompt_tokens` is the length of a prompt; None cuts prompts as finely as it
        takes to fill all ranks alike.
        """
        return dealt(tokens, self.attention_dp, prompt_tokens or 1.0)

    def prefilled(self, tokens: Tokens, prompt_tokens: float | None = None) -> Tokens:
        """Prompt tokens that go through the matrices of the fullest rank."""
        return dealt(self.attended(tokens, prompt_tokens), self.cp, 1.0)

    def decoded(self, num_requests: Tokens) -> Tokens:
        """Requests that the fullest rank decodes; context ranks decode the same."""
        return dealt(num_requests, self.attention_dp, 1.0)

    def kv_share(self, num_requests: Tokens) -> Tokens:
        """Share of a decode step's KV tokens that the fullest rank reads."""
        return self.decoded(num_requests) / num_requests / self.cp


def dealt(amount: Tokens, num_ranks: int, piece: float) -> Tokens:
    """What the fullest of `num_ranks` gets when pieces are dealt in turn.

    The last piece may be smaller. Between ``k * num_ranks`` pieces and one more it
    rises, then it stays until every rank has as much.
    """
    if num_ranks == 1:
        return amount
    turn = num_ranks * piece
    turns: Tokens = np.floor(amount / turn)
    rest: Tokens = np.minimum(amount - turns * turn, piece)
    return turns * piece + rest
