"""Steps: one prefill, decode or mixed step of a part of a model, ready to be timed.

A layer's time is the slope over the number of layers run: several layers amortise the
launch, and what does not grow with them (launch, events) is the intercept, kept apart.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch

from models.profile_records import Spread, StepPoint
from profiler.features import Feature, why_left_out
from profiler.kernel_errors import KERNEL_ERRORS, first_line
from profiler.layers.attention import KvCache
from profiler.layers.batch import Sequences, StepBatch, build_batch
from profiler.layers.block import DecoderLayer, Ends
from profiler.layers.formats import stand_ins
from profiler.layers.linear import random_tensor
from profiler.layers.settings import LayerSettings
from profiler.subject import Subject
from profiler.timing import DeviceClock, Measurement, TimingSettings, measure

logger = logging.getLogger(__name__)

_GRAPH_WARMUP = 2
_LOW_MEMORY_FRAC = 0.25
"""Of the device's memory; with less than that free, the allocator is emptied."""


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
    _why_eager: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        llm, tp = self.subject.llm, self.subject.tp
        self._why_eager = self._why_no_graphs()
        if self.subject.is_ends:
            self._ends = Ends(llm, tp, self.settings)
            return
        for _ in range(max(self.layer_counts)):
            layer = DecoderLayer(llm, tp, self.subject.part, self.settings)
            self._layers.append(layer)
            self._caches.append(layer.make_cache(self.num_rows, self.settings))
        if "loop" in self._layers[0].kernels:
            self._why_eager = "the loop over experts reads from the device"

    def _why_no_graphs(self) -> str | None:
        if self.settings.device.type != "cuda":
            return "there are no graphs on a CPU"
        return why_left_out(Feature.GRAPHS)

    @property
    def why_eager(self) -> str | None:
        """Why steps are not captured, or None when they are."""
        return self._why_eager

    @property
    def backend(self) -> str:
        """Kernels of the last measurement, e.g. ``varlen contiguous-kv graph``."""
        words = [layer.kernels for layer in self._layers[:1]]
        words += ["contiguous-kv"] if self._layers else []
        words.append("eager" if self._why_eager else "graph")
        words += ["fused"] if self.settings.pointwise.is_fused else []
        return " ".join(words)

    @property
    def stand_ins(self) -> str:
        """Formats that stand in for the model's own, e.g. ``bf16 for 8-bit experts``.

        The ends are plain matrices in every model.
        """
        if self.subject.is_ends:
            return ""
        has_experts = self._layers[0].has_experts
        found = stand_ins(self.subject.llm, self.settings, has_experts=has_experts)
        return ", ".join(found)

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
            for layer, held in pairs:
                x, residual = layer(x, residual, held, batch)
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

        if self._why_eager is None:
            try:
                replay = capture(plain)
            except torch.OutOfMemoryError:
                raise
            except KERNEL_ERRORS as error:
                # It would fail at every point; what broke the step itself will break
                # it again when it is timed.
                self._why_eager = first_line(error)
                logger.warning("not captured: %s", self._why_eager)
            else:
                return replay
        return plain


def capture(step: Callable[[], object]) -> Callable[[], object]:
    """Capture a step as a CUDA graph; the function returned replays it.

    `torch.cuda.graph` collects garbage and empties the allocator at every capture,
    which would take longer than most steps: that is done only when memory is short.
    """
    stream = _capture_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_GRAPH_WARMUP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    free, total = torch.cuda.mem_get_info()
    if free < _LOW_MEMORY_FRAC * total:
        # Within a capture nothing can be given back to the driver.
        torch.cuda.empty_cache()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        graph.capture_begin()
        try:
            kept = step()
        finally:
            graph.capture_end()

    def replay() -> object:
        graph.replay()
        return kept

    return replay


def _capture_stream() -> "torch.cuda.Stream":
    """The current stream if it is one of its own (a share of the SMs), else a side one.

    The side stream stays the same: the allocator keeps what was freed by stream.
    """
    current = torch.cuda.current_stream()
    if current != torch.cuda.default_stream():
        return current
    return _side_stream(torch.cuda.current_device())


@cache
def _side_stream(index: int) -> "torch.cuda.Stream":
    return torch.cuda.Stream(index)


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
