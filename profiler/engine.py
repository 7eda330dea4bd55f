"""Engine: small continuous batching with a real KV cache, to prove predictions.

It runs the same layers that a campaign measures, all of them, on synthetic weights.
Each request owns a slot: a contiguous run of `max_context_tokens` cache rows. Steps of
decodes alone replay CUDA graphs where the kernels allow it, captured for a few batch
sizes and padded to the next; steps with prompts, whole or in chunks, run as they come,
decodes among them (Sarathi-Serve).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clusters.fields import InputError, check_fields, spec
from models.latency.profile import part_of
from models.llm import LlmSpec
from profiler.features import Feature, why_left_out
from profiler.kernel_errors import KERNEL_ERRORS, first_line
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
    chunk_budget_tokens: int = spec(
        "Tokens of a chunked step, decodes included (Sarathi-Serve: 512 or 2048).",
        unit="tokens",
        ge=1,
        default=2048,
    )
    max_num_seqs: int = spec(
        "Requests resident at once.", unit="requests", ge=1, default=128
    )
    max_context_tokens: int = spec(
        "Longest prompt and answer together.", unit="tokens", ge=2, default=4096
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a prompt: what of it is cached, and the tokens that follow."""

    slot: int = spec("Slot of the request.", unit="1")
    past_tokens: int = spec("Tokens of the prompt in the cache.", unit="tokens")
    token_ids: Sequence[int] = spec("The next ones.")


@dataclass(frozen=True, slots=True)
class Decodes:
    """Requests that take one token each."""

    slots: Sequence[int] = spec("Their slots.", default=())
    contexts: Sequence[int] = spec("Contexts with the new token.", default=())
    tokens: Sequence[int] = spec("Their last tokens.", default=())


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
    def graph_sizes(self) -> tuple[int, ...]:
        """Decode batches that graphs were captured for, rising."""
        return tuple(sorted(self._graphs))

    @property
    def backend(self) -> str:
        """Kernels, and whether decode steps are graphs."""
        return f"{self._layers[0].kernels} {'graph' if self._graphs else 'eager'}"

    def step(
        self, chunks: Sequence[Chunk], decodes: Decodes = Decodes()
    ) -> tuple[list[int], list[int]]:
        """One step: the token after each chunk, and the next one of each decode.

        The token after a chunk that does not end its prompt means nothing.
        """
        if not chunks:
            return [], self._decode(decodes)
        lengths = [len(chunk.token_ids) for chunk in chunks]
        ends = [chunk.past_tokens + n for chunk, n in zip(chunks, lengths, strict=True)]
        slots = [chunk.slot for chunk in chunks]
        sequences = Sequences(
            (*lengths, *(1 for _ in decodes.slots)),
            (*ends, *decodes.contexts),
            self._rows([*slots, *decodes.slots]),
        )
        parts = [chunk.token_ids for chunk in chunks]
        flat = np.concatenate([*parts, decodes.tokens]).astype(np.int64)
        found = self._run_eagerly(sequences, flat)
        return found[: len(chunks)], found[len(chunks) :]

    def _decode(self, decodes: Decodes) -> list[int]:
        graph = self._graph_for(len(decodes.slots))
        if graph is not None:
            rows = self._rows(decodes.slots)
            return graph.run(rows, decodes.contexts, decodes.tokens)
        ones = (1,) * len(decodes.slots)
        rows = self._rows(decodes.slots)
        sequences = Sequences(ones, tuple(decodes.contexts), rows)
        return self._run_eagerly(sequences, np.array(decodes.tokens, dtype=np.int64))

    def _run_eagerly(
        self, sequences: Sequences, token_ids: NDArray[np.int64]
    ) -> list[int]:
        device = self._settings.device
        batch = build_batch(sequences, device)
        ids = torch.from_numpy(token_ids).to(device, non_blocking=True)
        found: list[int] = self._run(ids, batch).tolist()
        return found

    def prepare(self, max_batch: int | None = None) -> str | None:
        """Capture the graphs of decode steps up to a batch size, largest first.

        Returns why there are none, or None.
        """
        kernels = self._layers[0].kernels
        if not kernels.startswith("varlen") or "loop" in kernels:
            return f"the kernels ({kernels}) ask the host for lengths"
        if left_out := why_left_out(Feature.GRAPHS):
            return left_out
        most = min(max_batch or self.limits.max_num_seqs, self.limits.max_num_seqs)
        sizes = {*_SMALL_BATCHES, *range(_BATCH_STEP, most, _BATCH_STEP), most}
        try:
            for size in sorted((s for s in sizes if s <= most), reverse=True):
                self._graphs[size] = _DecodeGraph(self, size)
        except KERNEL_ERRORS as error:
            self._graphs.clear()
            return first_line(error)
        return None

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
        is_cuda = device.type == "cuda"
        self._host = torch.zeros((5, size), dtype=torch.int64, pin_memory=is_cuda)
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
