"""Facts about prefill and decode on one GPU, as SARATHI published them for an A6000.

Reference
    Agrawal et al., "SARATHI: Efficient LLM Inference by Piggybacking Decodes with
    Chunked Prefills", 2023, arXiv 2308.16369, sections 3 and 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from clusters.fields import check_fields, spec
from models.latency.step_table import StepTable
from models.profile_records import StepRecord

CHUNKS = (128, 256, 512, 1024, 2048, 4096)
BATCHES = (1, 2, 18)
_CONTEXT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TileEdge:
    """What one token beyond a multiple of the tile costs."""

    tokens: int = spec("Tokens at the edge.", unit="tokens", ge=1)
    extra_frac: float = spec("Time of one token more over the edge, less 1.", unit="1")

    def __post_init__(self) -> None:
        check_fields(self)


def saturation_tokens(table: StepTable, *, share: float = 0.9) -> int:
    """Shortest prompt (a power of two) at `share` of the best tokens a second."""
    sizes = [2**k for k in range(5, 14) if 2**k <= table.prefill_tokens[-1]]
    rates = [size / table.prefill_step_ms([size]) for size in sizes]
    best = max(rates)
    return next(
        size for size, rate in zip(sizes, rates, strict=True) if rate >= share * best
    )


def decode_to_prefill(
    table: StepTable, batches: Sequence[int] = BATCHES
) -> tuple[float, ...]:
    """Cost of a decoded token over that of a prefilled one, by batch.

    At a context, and with a prompt, of 1024 tokens.
    """
    prefill = table.prefill_step_ms([_CONTEXT]) / _CONTEXT
    return tuple(
        table.decode_step_ms(batch, batch * _CONTEXT) / batch / prefill
        for batch in batches
    )


def chunk_efficiency(table: StepTable, prompt_tokens: int) -> dict[int, float]:
    """Time of a prompt in one piece over its time in chunks, by chunk size."""
    whole = table.prefill_step_ms([prompt_tokens])
    found = {}
    for chunk in CHUNKS:
        if chunk > prompt_tokens:
            break
        pasts = range(0, prompt_tokens, chunk)
        in_chunks = sum(
            table.prefill_step_ms([min(chunk, prompt_tokens - past)], [past])
            for past in pasts
        )
        found[chunk] = whole / in_chunks
    return found


def tile_edges(records: Sequence[StepRecord]) -> tuple[TileEdge, ...]:
    """Measured prompts of n + 1 tokens over those of n, by n."""
    times = {
        record.point.prompt_tokens: record.step.ms
        for record in records
        if record.step is not None
        and record.point.phase == "prefill"
        and len(record.point.new_tokens) == 1
        and not record.point.past_tokens
        and record.sm_share_frac == 1.0
    }
    return tuple(
        TileEdge(tokens=tokens, extra_frac=times[tokens + 1] / ms - 1.0)
        for tokens, ms in sorted(times.items())
        if tokens + 1 in times
    )
