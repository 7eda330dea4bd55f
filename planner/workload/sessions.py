"""Sessions: users who ask again a while after their answer, with a growing prompt.

A turn comes a think time after the one before has ended, so a slow system is asked
later: each session is a closed loop, while sessions begin as the arrivals say. The
prompt of a turn holds all that was said before, in blocks that a prefix cache can find.
"""

from dataclasses import dataclass

import numpy as np

from clusters.fields import check_fields, spec
from clusters.units import s_to_ms
from planner.workload.arrivals import ArrivalProcess
from planner.workload.lengths import LengthDistribution
from planner.workload.prefix_blocks import PrefixBlocks
from planner.workload.requests import FloatArray, IntArray, Requests
from planner.workload.turns import FIRST_TURN, Turns

_SPARE, _SPARE_SESSIONS = 1.2, 20
"""More sessions than the requests need, since they are drawn before their turns."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dealt:
    """Requests dealt into sessions.

    Attributes
    ----------
    starts_ms
        Arrival of the first turn of each session here, rising, in ms.
    num_earlier
        Turns of that session before the start.
    """

    turns: Turns
    starts_ms: FloatArray
    num_earlier: IntArray

    def tokens_said(self, turn_tokens: IntArray, rng: np.random.Generator) -> IntArray:
        """Tokens of the earlier turns of each session, drawn among `turn_tokens`."""
        drawn = rng.choice(turn_tokens, size=int(self.num_earlier.sum()))
        ends = np.concatenate([[0], np.cumsum(drawn)])
        last = np.cumsum(self.num_earlier)
        said: IntArray = ends[last] - ends[last - self.num_earlier]
        return said


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

    def deal(
        self,
        num_requests: int,
        *,
        rate_rps: float,
        arrivals: ArrivalProcess,
        rng: np.random.Generator,
        arrivals_rng: np.random.Generator,
    ) -> Dealt:
        """Turns of sessions that begin as `arrivals` say, or were under way before.

        As many sessions are under way at the start as there are later on, between two
        turns, so that requests come at `rate_rps` from the first to the last. All turns
        are laid out as if answers took no time, and the first `num_requests` are kept.
        """
        session_rps = rate_rps / self.mean_turns
        num_before = round(session_rps * (self.mean_turns - 1.0) * self.think_s)
        num_new = int(num_requests / self.mean_turns * _SPARE) + _SPARE_SESSIONS
        starts_ms = arrivals.arrival_ms(num_new, rate_rps=session_rps, rng=arrivals_rng)
        # Exponential think times and geometric turns: what is left of a session under
        # way is like a session that begins a think time from now.
        num_sessions = num_before + num_new
        num_turns = rng.geometric(1.0 / self.mean_turns, size=num_sessions)
        owner = np.repeat(np.arange(num_sessions), num_turns)
        think_ms = s_to_ms(self.think_s) * rng.standard_exponential(len(owner))
        first = np.cumsum(num_turns) - num_turns
        begin_ms = np.concatenate([think_ms[first[:num_before]], starts_ms])
        elapsed_ms = np.cumsum(think_ms)
        times_ms = begin_ms[owner] + elapsed_ms - elapsed_ms[first][owner]
        kept = np.sort(np.argsort(times_ms, kind="stable")[:num_requests])
        is_first = kept == first[owner[kept]]
        order = kept[np.lexsort((times_ms[kept], ~is_first))]
        place = np.full(len(owner) + 1, FIRST_TURN)
        place[order] = np.arange(len(order))
        is_later = order != first[owner[order]]
        previous = np.where(is_later, place[order - 1], FIRST_TURN)
        num_first = int((~is_later).sum())
        num_earlier = np.zeros(num_first, dtype=np.int64)
        was_before = owner[order[:num_first]] < num_before
        num_earlier[was_before] = rng.geometric(
            1.0 / self.mean_turns, size=int(was_before.sum())
        )
        return Dealt(
            turns=Turns(previous=previous, think_ms=think_ms[order]),
            starts_ms=times_ms[order[:num_first]] - times_ms[order[0]],
            num_earlier=num_earlier,
        )

    def requests(
        self,
        dealt: Dealt,
        *,
        new_tokens: IntArray,
        output_tokens: IntArray,
        rng: np.random.Generator,
    ) -> Requests:
        """The requests of dealt sessions.

        Parameters
        ----------
        dealt
            Which requests follow which, and when sessions begin.
        new_tokens, output_tokens
            What each turn adds to its prompt, and its answer, shape
            ``(num_requests,)``. Turns before the start have lengths among these.
        rng
            For those.
        """
        turns = dealt.turns
        num, num_first = len(turns), turns.num_first
        prompt = self.shared_prompt_tokens + new_tokens
        said = dealt.tokens_said(new_tokens + output_tokens, rng)
        limit = self.max_context_tokens
        if limit is not None:
            fits = prompt[:num_first] + said + output_tokens[:num_first] <= limit
            said = np.where(fits, said, 0)
        prompt[:num_first] += said
        conversation = np.arange(num)  # the turn that opened it
        for turn in range(num_first, num):
            before = turns.previous[turn]
            grown = prompt[before] + output_tokens[before] + new_tokens[turn]
            if limit is None or grown + output_tokens[turn] <= limit:
                prompt[turn] = grown
                conversation[turn] = conversation[before]
        arrival_ms = np.full(num, dealt.starts_ms[-1])
        arrival_ms[:num_first] = dealt.starts_ms
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
