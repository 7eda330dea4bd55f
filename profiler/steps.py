"""Steps: one prefill, decode or mixed step of a part of a model, ready to be timed.

A layer's time is the slope over the number of layers run: several layers amortise the
launch, and what does not grow with them (launch, events) is the intercept, kept apart.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from models.profile_records import Spread, StepPoint
from profiler.layers.attention import KvCache
from profiler.layers.batch import Sequences, StepBatch, build_batch
from profiler.layers.block import DecoderLayer, Ends
from profiler.layers.linear import random_tensor
from profiler.layers.settings import LayerSettings
from profiler.subject import Subject
from profiler.timing import DeviceClock, Measurement, TimingSettings, measure

logger = logging.getLogger(__name__)

_GRAPH_WARMUP = 2


@dataclass(slots=True)
class StepRunner:
    """Weights and caches of a subject on the device, for points up to a size.

    Parameters
    ----------
    subject
        What is measured.
    settings
        Device and kernels.
    num_rows
        Rows of each layer's KV cache.
    layer_counts
        The two numbers of layers whose difference gives the time of one.
    """

    subject: Subject
    settings: LayerSettings
    num_rows: int
    layer_counts: tuple[int, int] = (1, 4)
    _layers: list[DecoderLayer] = field(default_factory=list, init=False)
    _caches: list[KvCache] = field(default_factory=list, init=False)
    _ends: Ends | None = field(default=None, init=False)
    _is_graph: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        llm, tp = self.subject.llm, self.subject.tp
        if self.subject.is_ends:
            self._ends = Ends(llm, tp, self.settings)
            return
        for _ in range(max(self.layer_counts)):
            layer = DecoderLayer(llm, tp, self.subject.part, self.settings)
            self._layers.append(layer)
            self._caches.append(layer.make_cache(self.num_rows, self.settings))

    @property
    def backend(self) -> str:
        """Kernels of the last measurement, e.g. ``varlen contiguous-kv graph``."""
        words = [layer.kernels for layer in self._layers[:1]]
        words += ["contiguous-kv"] if self._layers else []
        words.append("graph" if self._is_graph else "eager")
        words += ["fused"] if self.settings.pointwise.is_fused else []
        return " ".join(words)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights of one layer, or of the ends."""
        return (self._ends or self._layers[0]).weight_bytes

    def measure(
        self, point: StepPoint, clock: DeviceClock, timing: TimingSettings
    ) -> tuple[Measurement, float | None]:
        """Time of one layer (or of the ends) at `point`, and the fixed time in ms."""
        batch = build_batch(Sequences.of_point(point), self.settings.device)
        if self._ends is not None:
            return measure(self._ready(self._ends_step(batch)), clock, timing), None
        few, many = self.layer_counts
        low = measure(self._ready(self._layer_step(batch, few)), clock, timing)
        high = measure(self._ready(self._layer_step(batch, many)), clock, timing)
        return slope_of(low, high, self.layer_counts)

    def _layer_step(self, batch: StepBatch, num: int) -> Callable[[], object]:
        settings, hidden = self.settings, self.subject.llm.hidden
        shape = (batch.num_tokens, hidden)
        start = random_tensor(
            *shape, device=settings.device, dtype=settings.dtype, scale=1.0
        )
        zero = torch.zeros_like(start)

        def step() -> object:
            x, residual = start, zero
            pairs = zip(self._layers[:num], self._caches[:num], strict=True)
            for layer, cache in pairs:
                x, residual = layer(x, residual, cache, batch)
            return x

        return step

    def _ends_step(self, batch: StepBatch) -> Callable[[], object]:
        ends = self._ends
        assert ends is not None
        vocab = -(-self.subject.llm.vocab // self.subject.tp)
        token_ids = torch.randint(
            0, vocab, (batch.num_tokens,), device=self.settings.device
        )
        return lambda: ends.next_tokens(ends.embed(token_ids), batch)

    def _ready(self, step: Callable[[], object]) -> Callable[[], object]:
        """The step as a captured graph where that works, so launches cost nothing."""

        def plain() -> object:
            with torch.inference_mode():
                return step()

        self._is_graph = False
        # The loop over experts reads from the device, which no graph can.
        kernels = self._layers[0].kernels if self._layers else ""
        if self.settings.device.type != "cuda" or "loop" in kernels:
            return plain
        try:
            replay = capture(plain)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            logger.warning("not captured: %s", str(error).splitlines()[0])
            torch.cuda.synchronize()
            return plain
        self._is_graph = True
        return replay


def capture(step: Callable[[], object]) -> Callable[[], object]:
    """Capture a step as a CUDA graph; the function returned replays it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_GRAPH_WARMUP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = step()

    def replay() -> object:
        graph.replay()
        return kept

    return replay


def slope_of(
    low: Measurement, high: Measurement, layer_counts: tuple[int, int]
) -> tuple[Measurement, float]:
    """Time of one layer from two runs, with their spreads, and the fixed time in ms."""
    few, many = layer_counts
    per_layer = (high.spread.ms - low.spread.ms) / (many - few)
    fixed = low.spread.ms - few * per_layer
    # Noise can make the short run the slower one: then the long run speaks alone.
    is_sane = per_layer > 0.25 * high.spread.ms / many
    if not is_sane:
        per_layer, fixed = high.spread.ms / many, 0.0
    widths = (low.spread.ci_frac * low.spread.ms, high.spread.ci_frac * high.spread.ms)
    ci_ms = sum(width**2 for width in widths) ** 0.5 / (many - few)
    scale = per_layer / high.spread.ms
    spread = Spread(
        ms=per_layer,
        p10_ms=high.spread.p10_ms * scale,
        p90_ms=high.spread.p90_ms * scale,
        ci_frac=ci_ms / per_layer,
        num_samples=low.spread.num_samples + high.spread.num_samples,
    )
    is_stable = low.is_stable and high.is_stable and is_sane
    return Measurement(spread=spread, is_stable=is_stable), fixed
