"""What one GPU of a rank does, from fitted operators or from first principles.

Both answer `models.latency.ranked.RankOperators`: at any numbers of tokens, for a
single GPU, without knowing of other ranks.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from clusters.fields import spec
from clusters.links import GroupLink
from models.communication import (
    CommunicationEfficiency,
    ExpertRouting,
    all_reduce_ms,
    expert_exchange_ms,
)
from models.latency.closed_form import StageRoofline
from models.latency.fabrics import Fabrics
from models.latency.operators.collective import WIRE_FRAC, Collective
from models.latency.operators.surface import FloatArray
from models.latency.operators.tokens import TOKEN_KNOTS
from models.latency.stage_model import MAX_BATCH, StageModel
from models.latency.step_table import interpolate_array
from models.shapes import AttentionShape, Gemm, StageShapes

_GATHERED = (Collective.ALL_GATHER, Collective.REDUCE_SCATTER)
_SENT = (Collective.EXPERT_DISPATCH, Collective.EXPERT_COMBINE)
"""The two ways of tokens to their experts and back."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedRank:
    """Fitted operators, composed once at `TOKEN_KNOTS` and interpolated between."""

    model: StageModel = spec("The operators.")
    fabrics: Fabrics = spec("Collectives measured on links like the stage's.")
    quick: Fabrics = spec("Those with kernels of low latency, for decode.")
    own: FloatArray = spec("Everything but routed experts and attention.", unit="ms")
    own_decode: FloatArray = spec("The same in decode.", unit="ms")
    routed: FloatArray = spec("Routed experts.", unit="ms")
    head: FloatArray = spec("LM head.", unit="ms")
    per_sq_token_ms: float = spec("Attention a squared token.", unit="ms/token^2")
    rest: FloatArray = spec("Prefill attention without the squares.", unit="ms")
    decode_fixed: FloatArray = spec("G of attention.", unit="ms")
    decode_slope: FloatArray = spec("H of attention.", unit="ms/token")

    @classmethod
    def of(cls, model: StageModel, fabrics: Fabrics, quick: Fabrics) -> Self:
        """Compose the operators of `model`."""
        collectives = model.collectives_ms()
        own = model.layers_ms(routed=False) + collectives
        own_decode = model.layers_ms(routed=False, decode=True) + collectives
        routed, head = model.layers_ms(own=False), model.head_ms()
        rest, per_sq_token_ms = model.attention.prefill(own + routed)
        sizes = TOKEN_KNOTS[TOKEN_KNOTS <= MAX_BATCH]
        linear = own_decode + routed + head + model.end_ms(TOKEN_KNOTS)
        fixed, slope = model.attention.decode(sizes, linear[: len(sizes)])
        return cls(
            model=model,
            fabrics=fabrics,
            quick=quick,
            own=own,
            own_decode=own_decode,
            routed=routed,
            head=head,
            per_sq_token_ms=per_sq_token_ms,
            rest=rest,
            decode_fixed=fixed,
            decode_slope=slope,
        )

    @property
    def stage(self) -> StageShapes:
        """What the GPU computes."""
        return self.model.stage

    @property
    def communication(self) -> CommunicationEfficiency:
        """What software leaves of the links."""
        return CommunicationEfficiency()

    @property
    def memory_bytes_per_s(self) -> float:
        """Rate of elementwise work."""
        model = self.model
        return model.fit.elementwise.memory_frac * model.gpu.memory_bytes_per_s

    @property
    def host_ms(self) -> float:
        """Host time of calling every operator, nothing with CUDA graphs."""
        return self.model.host_ms

    def own_ms(self, tokens: FloatArray, *, decode: bool) -> FloatArray:
        """Matrices but the routed experts, norms, collectives of the tensor group."""
        return _between(tokens, self.own_decode if decode else self.own)

    def routed_ms(self, tokens: FloatArray) -> FloatArray:
        """Routed experts."""
        return _between(tokens, self.routed)

    def exchange_ms(
        self,
        num_bytes: FloatArray,
        link: GroupLink,
        routing: ExpertRouting,
        *,
        decode: bool,
    ) -> FloatArray:
        """Both ways of everyone's rows: of what was measured the cheapest.

        That is what an operator would set. Kernels of low latency send a copy of a row
        for every expert, the others one to every GPU.
        """
        alone = replace(link, bytes_per_s=link.bytes_per_s / link.sharers, sharers=1)
        found = [_both_ways(self.fabrics, _GATHERED, num_bytes, link, routing)]
        if routing.is_whole:
            sent = routing.sent_frac * num_bytes
            found.append(_both_ways(self.fabrics, _SENT, sent, alone, routing))
        if routing.is_whole and decode and self.quick:
            copies = routing.experts_per_token / routing.num_gpus * num_bytes
            found.append(_both_ways(self.quick, _SENT, copies, alone, routing))
        measured = [each for each in found if each is not None]
        if not measured:
            return expert_exchange_ms(
                num_bytes, link, routing, efficiency=self.communication
            )
        return np.asarray(np.minimum.reduce(measured))

    def reduce_ms(
        self, num_bytes: FloatArray, link: GroupLink, *, num_gpus: int
    ) -> FloatArray:
        """All-reduce over some GPUs of the stage, as measured where that was."""
        model = self.fabrics.get(Collective.ALL_REDUCE)
        if model is None:
            return all_reduce_ms(
                num_bytes, link, num_gpus=num_gpus, efficiency=self.communication
            )
        return model.ms(num_bytes, num_gpus=num_gpus, bytes_per_s=link.bytes_per_s)

    def head_ms(self, rows: FloatArray) -> FloatArray:
        """LM head."""
        return _between(rows, self.head)

    def end_ms(self, tokens: FloatArray) -> FloatArray:
        """Hop to the next stage, or the host's part of the step."""
        return self.model.end_ms(tokens)

    def product_ms(self, gemm: Gemm, tokens: FloatArray) -> FloatArray:
        """One matrix product of one layer."""
        return _between(tokens, self.model.operators.gemm_ms(gemm))

    def prefill_rest(self, tokens: FloatArray) -> FloatArray:
        """Prefill attention without the squares."""
        if self.stage.ranks.cp == 1:
            return _between(tokens, self.rest)
        # Far beyond the knots what is left grows with the squares again, up or down.
        return self.model.attention.prefill_rest(tokens, self.per_sq_token_ms)

    def prompt_ms(self, attention: AttentionShape, tokens: FloatArray) -> FloatArray:
        """Attention of one layer in one whole prompt."""
        return self.model.attention.prompts_ms(attention, 1.0, tokens)

    def least_block_ms(self, attention: AttentionShape) -> float:
        """Shortest attention kernel of one layer."""
        return self.model.attention.shortest_ms("prefill", attention)

    def decode_attention(self, requests: FloatArray) -> tuple[FloatArray, FloatArray]:
        """G and H of decode attention; H is flat beyond the last measured batch."""
        sizes = TOKEN_KNOTS[: len(self.decode_fixed)]
        fixed = interpolate_array(requests, sizes.tolist(), self.decode_fixed.tolist())
        return fixed, np.interp(requests, sizes, self.decode_slope)


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineRank:
    """The closed form."""

    form: StageRoofline = spec("The closed form.")

    @property
    def stage(self) -> StageShapes:
        """What the GPU computes."""
        return self.form.stage

    @property
    def communication(self) -> CommunicationEfficiency:
        """What software leaves of the links."""
        return self.form.efficiency.communication

    @property
    def memory_bytes_per_s(self) -> float:
        """Rate of elementwise work."""
        return self.form.memory_bytes_per_s

    @property
    def host_ms(self) -> float:
        """Time to launch the layers."""
        return self.form.host_ms

    @property
    def per_sq_token_ms(self) -> float:
        """Attention of all layers per squared token of a prompt."""
        return self.form.prefill_per_sq_token_ms()

    def own_ms(self, tokens: FloatArray, *, decode: bool) -> FloatArray:
        """Matrices but the routed experts, norms, collectives of the tensor group."""
        return self.form.layers_ms(tokens, routed=False)

    def routed_ms(self, tokens: FloatArray) -> FloatArray:
        """Routed experts."""
        return self.form.routed_ms(tokens)

    def exchange_ms(
        self,
        num_bytes: FloatArray,
        link: GroupLink,
        routing: ExpertRouting,
        *,
        decode: bool,
    ) -> FloatArray:
        """Both ways of everyone's rows, in any phase alike."""
        return expert_exchange_ms(
            num_bytes, link, routing, efficiency=self.communication
        )

    def reduce_ms(
        self, num_bytes: FloatArray, link: GroupLink, *, num_gpus: int
    ) -> FloatArray:
        """All-reduce over some GPUs of the stage."""
        return all_reduce_ms(
            num_bytes, link, num_gpus=num_gpus, efficiency=self.communication
        )

    def head_ms(self, rows: FloatArray) -> FloatArray:
        """LM head."""
        head = self.form.stage.head
        return np.zeros_like(rows) if head is None else self.form.gemm_ms(head, rows)

    def end_ms(self, tokens: FloatArray) -> FloatArray:
        """Hop to the next stage, or the overhead of the step."""
        return self.form.end_ms(tokens)

    def product_ms(self, gemm: Gemm, tokens: FloatArray) -> FloatArray:
        """One matrix product of one layer."""
        return self.form.gemm_ms(gemm, tokens)

    def prefill_rest(self, tokens: FloatArray) -> FloatArray:
        """Prefill attention without the squares: that of short windows."""
        return self.form.windowed_prefill_ms(tokens)

    def prompt_ms(self, attention: AttentionShape, tokens: FloatArray) -> FloatArray:
        """Attention of one layer in one whole prompt: half of its pairs."""
        return self.form.pair_ms(attention) / 2.0 * tokens**2

    def least_block_ms(self, attention: AttentionShape) -> float:
        """Nothing: the floor of a layer holds it."""
        return 0.0

    def decode_attention(self, requests: FloatArray) -> tuple[FloatArray, FloatArray]:
        """G and H of decode attention."""
        slope = self.form.decode_per_kv_token_ms()
        return self.form.windowed_decode_ms(requests), np.full_like(requests, slope)


def _both_ways(
    fabrics: Fabrics,
    ways: tuple[Collective, Collective],
    num_bytes: FloatArray,
    link: GroupLink,
    routing: ExpertRouting,
) -> FloatArray | None:
    """Rows there and back in one pair of collectives, None where not measured."""
    if not set(ways) <= set(fabrics):
        return None
    there, back = (
        fabrics[way].ms(
            WIRE_FRAC.get(way, 1.0) * num_bytes,
            num_gpus=routing.num_gpus,
            bytes_per_s=link.bytes_per_s,
        )
        for way in ways
    )
    return there + back


def _between(tokens: FloatArray, values: FloatArray) -> FloatArray:
    """A curve at `TOKEN_KNOTS`, at other numbers of tokens."""
    return interpolate_array(tokens, TOKEN_KNOTS.tolist(), values.tolist())
