"""Sessions: users who ask again a while after their answer, with a growing prompt.

A turn comes a think time after the one before has ended, so a slow system is asked
later: each session is a closed loop, while sessions begin as the arrivals say. The
prompt of a turn holds all that was said before, in blocks that a prefix cache can find.
"""

from dataclasses import dataclass

import numpy as np

from clusters.fields import check_fields, spec
from clusters.units import s_to_ms
from planner.workload.lengths import LengthDistribution
from planner.workload.prefix_blocks import PrefixBlocks
from planner.workload.requests import IntArray, Requests
from planner.workload.turns import FIRST_TURN, Turns


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """How many turns sessions have, how far apart, and what their prompts share."""

    mean_turns: float = spec("Mean turns of a session (geometric).", unit="1", ge=1)
    think_s: float = spec(
        "Mean time from an answer to the next turn (exponential).", unit="s", ge=0
    )
    shared_prompt_tokens: int = spec(
        "Tokens that every prompt begins with (a system prompt).",
        unit="tokens",
        ge=0,
        default=0,
    )
    max_context_tokens: int | None = spec(
        "Longest prompt with its answer; a turn beyond it opens a new conversation. "
        "None: any.",
        unit="tokens",
        gt=0,
        default=None,
    )
    block_tokens: int = spec(
        "Tokens of a prefix block; only full blocks are shared.",
        unit="tokens",
        gt=0,
        default=16,
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def mean_input_tokens(self, lengths: LengthDistribution) -> float:
        """Mean prompt: its own tokens after those of `mean_turns - 1` turns.

        Where conversations are cut at the longest context it is at most that.
        """
        own = self.shared_prompt_tokens + lengths.mean_input_tokens
        turn = lengths.mean_input_tokens + lengths.mean_output_tokens
        mean = own + (self.mean_turns - 1.0) * turn
        return (
            mean
            if self.max_context_tokens is None
            else min(mean, float(self.max_context_tokens))
        )

    def deal(self, num_requests: int, rng: np.random.Generator) -> Turns:
        """Requests dealt into sessions: first turns, then second ones, and so on.

        The last session may be cut short.
        """
        think_ms = s_to_ms(1.0) * self.think_s * rng.standard_exponential(num_requests)
        num_turns = rng.geometric(1.0 / self.mean_turns, size=num_requests)
        ends = np.cumsum(num_turns)
        num_sessions = int(np.searchsorted(ends, num_requests)) + 1
        num_turns = num_turns[:num_sessions]
        num_turns[-1] -= ends[num_sessions - 1] - num_requests
        previous = np.full(num_requests, FIRST_TURN)
        last = np.arange(num_sessions)  # the latest turn of each session
        done = num_sessions
        for turn in range(1, int(num_turns.max())):
            going_on = np.flatnonzero(num_turns > turn)
            now = done + np.arange(len(going_on))
            previous[now] = last[going_on]
            last[going_on] = now
            done += len(going_on)
        return Turns(previous=previous, think_ms=think_ms)

    def requests(
        self,
        turns: Turns,
        *,
        starts_ms: np.ndarray,
        new_tokens: IntArray,
        output_tokens: IntArray,
    ) -> Requests:
        """The requests of dealt sessions.

        Parameters
        ----------
        turns
            Which requests follow which.
        starts_ms
            When sessions begin, shape ``(turns.num_first,)``, rising, in ms.
        new_tokens, output_tokens
            What each turn adds to its prompt, and its answer, shape
            ``(num_requests,)``.
        """
        num = len(turns)
        prompt = self.shared_prompt_tokens + new_tokens
        conversation = np.arange(num)  # the turn that opened it
        limit = self.max_context_tokens
        for turn in range(turns.num_first, num):
            before = turns.previous[turn]
            grown = prompt[before] + output_tokens[before] + new_tokens[turn]
            if limit is None or grown + output_tokens[turn] <= limit:
                prompt[turn] = grown
                conversation[turn] = conversation[before]
        arrival_ms = np.full(num, starts_ms[-1])
        arrival_ms[: turns.num_first] = starts_ms
        return Requests(
            arrival_ms=arrival_ms,
            input_tokens=prompt,
            output_tokens=output_tokens,
            prefix_blocks=self._blocks(prompt, conversation),
            turns=turns,
        )

    def _blocks(self, prompt: IntArray, conversation: IntArray) -> PrefixBlocks:
        """Full blocks, numbered from 0 in what all share, then by conversation."""
        num_shared = self.shared_prompt_tokens // self.block_tokens
        counts = prompt // self.block_tokens
        longest = np.zeros(len(prompt), dtype=np.int64)
        np.maximum.at(longest, conversation, counts)
        base = np.cumsum(longest) - longest
        offsets = np.zeros(len(prompt) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        own = np.repeat(base[conversation] + num_shared, counts) + position
        return PrefixBlocks(
            ids=np.where(position < num_shared, position, own),
            offsets=offsets,
            block_tokens=self.block_tokens,
        )
