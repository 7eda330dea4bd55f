"""Step table of a stage with ranks: attention data parallelism and context parallelism.

Reference
    DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, arXiv 2412.19437, section 3.4
    (attention in data parallel, experts over all GPUs). Context parallelism:
    `models.latency.ring`.

Idea
    A rank does what a stage of `tp` GPUs would do with its own tokens. Only routed
    experts are shared: they see the tokens of all ranks, which travel to them and back.
    Ranks wait for each other in every layer, so the step is that of the fullest rank
    (`models.ranks`).

Steps
    1. Prefill of T tokens: the matrices of the fullest rank, the experts and their
       exchange, the attention of its prompts divided by the context ranks, the ring.
    2. Decode of B requests: the same with the requests of the fullest rank; context
       ranks each attend to their part of the cache and add up what they found.
    3. ``c`` becomes that of evenly filled ranks, which hold 1/n of the squares each;
       the rest of the fullest rank's squares goes to the tokens.
    4. Knots: those of a rank, of the stage, and the corners where ranks fill up.

Assumes
    Dense layers, shared experts, embedding and LM head are split over TP and repeated
    on every rank, as in vLLM and TensorRT-LLM (SGLang: ``--moe-dense-tp-size 1``).
    Prompts of a context-parallel stage run alone. A step of several has less attention
    to hide the ring behind, by at most the time of the transfers.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from clusters.fields import spec
from clusters.links import GroupLink
from models.communication import ExpertRouting
from models.latency.attention_costs import never_cheaper
from models.latency.operators.surface import FloatArray
from models.latency.operators.tokens import TOKEN_KNOTS
from models.latency.request import StageLinks
from models.latency.ring import RingOperators, ring_ms, values_width
from models.latency.step_table import StepTable
from models.ranks import Ranks
from models.shapes import ACTIVATION_BYTES

_MAX_REQUESTS = 8192.0
"""Requests of one rank in the largest batch of a table."""
_EVERY_REQUEST = 8
"""Requests a rank up to which every batch is a knot: one more fills another rank."""
_TURNS = 12.0
"""Prompts a rank up to which the corners of uneven ranks are knots."""


class RankOperators(RingOperators, Protocol):
    """What one GPU of a rank does, at any rising numbers of tokens or requests."""

    @property
    def host_ms(self) -> float:
        """Least time of a step."""
        ...

    def own_ms(self, tokens: FloatArray, *, decode: bool) -> FloatArray:
        """Matrices but the routed experts, norms, collectives of the tensor group."""
        ...

    def routed_ms(self, tokens: FloatArray) -> FloatArray:
        """Routed experts at the tokens of the whole stage."""
        ...

    def exchange_ms(
        self,
        num_bytes: FloatArray,
        link: GroupLink,
        routing: ExpertRouting,
        *,
        decode: bool,
    ) -> FloatArray:
        """Taking everyone's rows to the experts of one layer, and back."""
        ...

    def reduce_ms(
        self, num_bytes: FloatArray, link: GroupLink, *, num_gpus: int
    ) -> FloatArray:
        """All-reduce over some GPUs of the stage."""
        ...

    def head_ms(self, rows: FloatArray) -> FloatArray:
        """LM head."""
        ...

    def end_ms(self, tokens: FloatArray) -> FloatArray:
        """Hop to the next stage with the tokens of the whole stage, or overhead."""
        ...

    def decode_attention(self, requests: FloatArray) -> tuple[FloatArray, FloatArray]:
        """G and H of the attention of a rank's decodes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedStage:
    """A stage whose ranks work on different tokens."""

    operators: RankOperators = spec("What one GPU does.")
    links: StageLinks = spec("Links of the stage.")
    prompt_tokens: float | None = spec(
        "Typical prompt, None: ranks fill evenly.", unit="tokens"
    )

    def compile(self) -> StepTable:
        """The step table, the same whatever the operators rest on."""
        ranks = self._ranks
        grid = _prefill_grid(ranks, self.prompt_tokens)
        per_sq_token_ms = self.operators.per_sq_token_ms / ranks.count
        # 4. A step never takes less time with more tokens. F alone may: the squares of
        # a lone prompt are on one rank, those of several are shared.
        squares_ms = per_sq_token_ms * grid * self._piece(grid)
        whole_ms = np.maximum.accumulate(self._prefill_ms(grid) + squares_ms)
        batch = _decode_grid(ranks)
        fixed, slope = self._decode_ms(batch)
        slope = never_cheaper(batch, slope, apart=1.0)
        return StepTable(
            prefill_tokens=tuple(grid.tolist()),
            prefill_ms=tuple((whole_ms - squares_ms).tolist()),
            prefill_per_sq_token_ms=per_sq_token_ms,
            decode_batch=tuple(batch.tolist()),
            decode_ms=tuple(np.maximum.accumulate(fixed).tolist()),
            decode_per_kv_token_ms=tuple(slope.tolist()),
        )

    @property
    def _ranks(self) -> Ranks:
        return self.operators.stage.ranks

    def _piece(self, tokens: FloatArray) -> FloatArray:
        """Length of the prompts that a step of `tokens` is taken to consist of."""
        if self._ranks.attention_dp == 1:
            return tokens
        return np.minimum(tokens, self.prompt_tokens or 1.0)

    def _prefill_ms(self, tokens: FloatArray) -> FloatArray:
        """Steps 1 and 3: F."""
        operators, ranks = self.operators, self._ranks
        attended = ranks.attended(tokens, self.prompt_tokens)
        own = ranks.prefilled(tokens, self.prompt_tokens)
        device_ms = operators.own_ms(own, decode=False)
        device_ms += self._experts_ms(tokens, decode=False)
        uneven = self._piece(tokens) * (attended - tokens / ranks.attention_dp)
        rest = operators.prefill_rest(attended) + operators.per_sq_token_ms * uneven
        device_ms += rest / ranks.cp + operators.head_ms(np.ones_like(tokens))
        if ranks.cp > 1:
            device_ms += ring_ms(operators, self.links.stage, attended)
        return np.maximum(device_ms, operators.host_ms) + operators.end_ms(tokens)

    def _decode_ms(self, requests: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Step 2: G and H."""
        operators, ranks = self.operators, self._ranks
        own = ranks.decoded(requests)
        fixed, slope = operators.decode_attention(own)
        device_ms = operators.own_ms(own, decode=True)
        device_ms += self._experts_ms(requests, decode=True)
        device_ms += fixed + operators.head_ms(own) + self._partial_sums_ms(own)
        device_ms = np.maximum(device_ms, operators.host_ms)
        return (
            device_ms + operators.end_ms(requests),
            slope * ranks.kv_share(requests),
        )

    def _experts_ms(self, tokens: FloatArray, *, decode: bool) -> FloatArray:
        """Routed experts, and the way of all tokens to them and back."""
        operators, stage = self.operators, self.operators.stage
        if not stage.exchanges:
            return operators.routed_ms(tokens)
        routed = next(g for group in stage.groups for g in group.gemms if g.is_expert)
        one = operators.exchange_ms(
            stage.residual_bytes(tokens),
            self.links.stage,
            ExpertRouting(
                num_gpus=stage.num_gpus,
                expert_gpus=routed.expert_gpus,
                experts_per_token=routed.experts_per_token,
            ),
            decode=decode,
        )
        return operators.routed_ms(tokens) + stage.exchanges * one

    def _partial_sums_ms(self, requests: FloatArray) -> FloatArray:
        """All-reduce of what context ranks found in their parts of the cache."""
        total, cp = np.zeros_like(requests), self._ranks.cp
        if cp == 1:
            return total
        for group in self.operators.stage.groups:
            num_bytes = float(ACTIVATION_BYTES * values_width(group)) * requests
            one = self.operators.reduce_ms(num_bytes, self.links.stage, num_gpus=cp)
            total += group.num_layers * one
        return total


def _prefill_grid(ranks: Ranks, prompt_tokens: float | None) -> FloatArray:
    """Knots of the experts, of a rank, and where prompts start to fill ranks again."""
    parts = [TOKEN_KNOTS, ranks.count * TOKEN_KNOTS]
    if prompt_tokens is not None and ranks.attention_dp > 1:
        turns = ranks.attention_dp * prompt_tokens * np.arange(1.0, _TURNS)
        parts += [turns, turns + prompt_tokens, np.asarray([prompt_tokens])]
    grid = np.unique(np.concatenate(parts))
    return np.asarray(grid[grid >= 1.0])


def _decode_grid(ranks: Ranks) -> FloatArray:
    """Knots of a rank, before and after every rank has one more, and of the experts."""
    if ranks.attention_dp == 1:
        return np.asarray(TOKEN_KNOTS[TOKEN_KNOTS <= _MAX_REQUESTS])
    full = ranks.attention_dp * TOKEN_KNOTS
    every = np.arange(1.0, ranks.attention_dp * _EVERY_REQUEST + 1.0)
    grid = np.unique(np.concatenate([TOKEN_KNOTS, full, full + 1.0, every]))
    return np.asarray(grid[grid <= ranks.attention_dp * _MAX_REQUESTS])
