"""Engine: small continuous batching with a real KV cache, to prove predictions.

It runs the same layers that a campaign measures, all of them, on synthetic weights.
Each request owns a slot: a contiguous run of `max_context_tokens` cache rows. Decode
steps replay CUDA graphs where the kernels allow it, captured for a few batch sizes and
padded to the next; prompts run as they come.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from clusters.fields import InputError, check_fields, spec
from models.latency.profile import part_of
from models.llm import LlmSpec
from profiler.layers.batch import Sequences, StepBatch, build_batch
from profiler.layers.block import DecoderLayer, Ends
from profiler.layers.settings import LayerSettings
from profiler.steps import capture

_SMALL_BATCHES = (1, 2, 4, 8)
_BATCH_STEP = 16
"""Beyond the small ones graphs are captured at every multiple of this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """Sizes of an engine; what the simulator is told as well."""

    max_batch_tokens: int = spec(
        "Prompt tokens of one prefill step.", unit="tokens", ge=1, default=8192
    )
    max_num_seqs: int = spec(
        "Requests resident at once.", unit="requests", ge=1, default=128
    )
    max_context_tokens: int = spec(
        "Longest prompt and answer together.", unit="tokens", ge=2, default=4096
    )

    def __post_init__(self) -> None:
        check_fields(self)


class Engine:
    """A whole model on one device: prefill and decode steps over request slots."""

    def __init__(
        self, llm: LlmSpec, settings: LayerSettings, limits: EngineLimits
    ) -> None:
        if limits.max_context_tokens > llm.max_positions:
            raise InputError(
                "max_context_tokens",
                limits.max_context_tokens,
                f"<= {llm.max_positions}",
            )
        self.llm, self.limits, self._settings = llm, limits, settings
        self._ends = Ends(llm, 1, settings)
        self._layers = [
            DecoderLayer(llm, 1, part_of(llm, layer), settings)
            for layer in range(llm.num_layers)
        ]
        # One slot more: padded requests write there.
        rows = (limits.max_num_seqs + 1) * limits.max_context_tokens
        self._caches = [layer.make_cache(rows, settings) for layer in self._layers]
        self._graphs: dict[int, _DecodeGraph] = {}

    @property
    def backend(self) -> str:
        """Kernels, and whether decode steps are graphs."""
        return f"{self._layers[0].kernels} {'graph' if self._graphs else 'eager'}"

    def prefill(
        self, slots: Sequence[int], token_ids: Sequence[Sequence[int]]
    ) -> list[int]:
        """First token of each prompt; its keys and values fill its slot."""
        lengths = tuple(len(ids) for ids in token_ids)
        sequences = Sequences(lengths, lengths, self._rows(slots))
        flat = [token for ids in token_ids for token in ids]
        batch = build_batch(sequences, self._settings.device)
        ids = torch.tensor(flat, dtype=torch.int64).to(self._settings.device)
        return self._run(ids, batch).tolist()

    def decode(
        self, slots: Sequence[int], contexts: Sequence[int], tokens: Sequence[int]
    ) -> list[int]:
        """Next token of each request, whose context with `tokens` is `contexts`."""
        graph = self._graph_for(len(slots))
        if graph is not None:
            return graph.run(self._rows(slots), contexts, tokens)
        ones = (1,) * len(slots)
        sequences = Sequences(ones, tuple(contexts), self._rows(slots))
        batch = build_batch(sequences, self._settings.device)
        ids = torch.tensor(list(tokens), dtype=torch.int64).to(self._settings.device)
        return self._run(ids, batch).tolist()

    def prepare(self, max_batch: int | None = None) -> None:
        """Capture the graphs of decode steps up to a batch size, largest first."""
        if not self._layers[0].kernels.startswith("varlen"):
            return
        most = min(max_batch or self.limits.max_num_seqs, self.limits.max_num_seqs)
        sizes = {*_SMALL_BATCHES, *range(_BATCH_STEP, most, _BATCH_STEP), most}
        for size in sorted((s for s in sizes if s <= most), reverse=True):
            self._graphs[size] = _DecodeGraph(self, size)

    def _graph_for(self, num_requests: int) -> "_DecodeGraph | None":
        sizes = [size for size in self._graphs if size >= num_requests]
        return self._graphs[min(sizes)] if sizes else None

    def _rows(self, slots: Sequence[int]) -> tuple[int, ...]:
        return tuple(slot * self.limits.max_context_tokens for slot in slots)

    def _run(self, token_ids: torch.Tensor, batch: StepBatch) -> torch.Tensor:
        with torch.inference_mode():
            x = self._ends.embed(token_ids)
            residual = torch.zeros_like(x)
            for layer, cache in zip(self._layers, self._caches, strict=True):
                x, residual = layer(x, residual, cache, batch)
            return self._ends.next_tokens(x + residual, batch)


class _DecodeGraph:
    """A captured decode step of a fixed number of requests."""

    def __init__(self, engine: Engine, size: int) -> None:
        self._size = size
        self._scratch = engine.limits.max_num_seqs * engine.limits.max_context_tokens
        device = engine._settings.device  # noqa: SLF001  (same file)
        sequences = Sequences((1,) * size, (1,) * size, (self._scratch,) * size)
        bound = engine.limits.max_context_tokens
        batch = build_batch(sequences, device, max_kv=bound)
        # One buffer for all that changes, so that a step sends one copy.
        self._buffer = torch.zeros((5, size), dtype=torch.int64, device=device)
        self._host = torch.zeros((5, size), dtype=torch.int64, pin_memory=True)
        self._fill((), (), ())
        tokens, positions, rows, starts, lengths = self._buffer

        def step() -> torch.Tensor:
            self._starts = torch.nn.functional.pad(starts, (0, 1)).int()
            now = replace(
                batch,
                positions=positions,
                cache_rows=rows,
                kv_starts=self._starts,
                kv_lengths=lengths.int(),
            )
            return engine._run(tokens, now)  # noqa: SLF001  (same file)

        self._replay = capture(step)

    def run(
        self, rows: Sequence[int], contexts: Sequence[int], tokens: Sequence[int]
    ) -> list[int]:
        """Next tokens of the requests; the padding's are dropped."""
        self._fill(rows, contexts, tokens)
        found: Any = self._replay()
        tokens_found: list[int] = found.tolist()
        return tokens_found[: len(rows)]

    def _fill(
        self, rows: Sequence[int], contexts: Sequence[int], tokens: Sequence[int]
    ) -> None:
        num_padded = self._size - len(rows)
        starts = torch.tensor([*rows, *(self._scratch,) * num_padded])
        lengths = torch.tensor([*contexts, *(1,) * num_padded])
        self._host[0] = torch.tensor([*tokens, *(0,) * num_padded])
        self._host[1] = lengths - 1
        self._host[2] = starts + lengths - 1
        self._host[3] = starts
        self._host[4] = lengths
        self._buffer.copy_(self._host, non_blocking=True)
