"""Mixed steps: a prompt chunk that rides with decodes, against three laws.

Reference
    Agrawal et al., "SARATHI: Efficient LLM Inference by Piggybacking Decodes with
    Chunked Prefills", 2023, arXiv 2308.16369; Sarathi-Serve, OSDI 2024.

Idea
    The linear layers of a mixed step run once over all its tokens, so the weights are
    read once; attention is done for the chunk and for every decode. That is the law of
    `StepTable.mixed_step_ms`. It lies between the longer of the two parts (perfect
    overlap) and their sum (two steps). How far measured steps are from each of the
    three says which one holds.

Steps
    1. The three laws at every measured mixed step; parts as measured where they were,
       as fitted otherwise.
    2. Errors of each law, and the median of measured over predicted.
    3. The factors on the attention of the chunk and of the decodes that would fit best
       (non-negative least squares of relative errors).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from clusters.fields import check_fields, spec
from models.latency.step_table import StepTable
from models.profile_records import StepPoint, StepRecord

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LawError:
    """How a law of mixed steps compares with measured ones."""

    median_frac: float = spec("Median absolute relative error.", unit="1", ge=0)
    p90_frac: float = spec("90th percentile of it.", unit="1", ge=0)
    measured_to_law: float = spec("Median of measured over law.", unit="1", gt=0)

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, law_ms: FloatArray, measured_ms: FloatArray) -> Self:
        """Error of a law at measured steps."""
        errors = np.abs(law_ms / measured_ms - 1.0)
        return cls(
            median_frac=float(np.median(errors)),
            p90_frac=float(np.percentile(errors, 90)),
            measured_to_law=float(np.median(measured_ms / law_ms)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedFit:
    """Measured mixed steps of a part against the laws."""

    num_points: int = spec("Mixed steps measured.", unit="points", ge=1)
    shared: LawError = spec("Linears once, attention added: what is simulated.")
    sum: LawError = spec("Chunk and decodes one after the other.")
    max: LawError = spec("The longer of the two.")
    chunk_attention_factor: float = spec(
        "Best factor on the attention of the chunk.", unit="1", ge=0
    )
    decode_attention_factor: float = spec(
        "Best factor on the attention of the decodes.", unit="1", ge=0
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class MixedLaws:
    """Measured mixed steps and what each law says of them, shape (steps,) each."""

    points: tuple[StepPoint, ...]
    measured_ms: FloatArray
    shared_ms: FloatArray
    sum_ms: FloatArray
    max_ms: FloatArray


def mixed_laws(records: Sequence[StepRecord], table: StepTable) -> MixedLaws | None:
    """The three laws at every measured mixed step of one part; None without any.

    Parameters
    ----------
    records
        Records of the part, on all SMs.
    table
        What was fitted to its prefill and decode steps.
    """
    timed = {r.point: r.step.ms for r in records if r.step is not None}
    points = tuple(point for point in timed if point.phase == "mixed")
    if not points:
        return None
    parts = np.array([_parts_ms(point, timed, table) for point in points])
    return MixedLaws(
        points=points,
        measured_ms=np.array([timed[point] for point in points]),
        shared_ms=np.array([sum(_pieces_ms(point, table)) for point in points]),
        sum_ms=parts.sum(axis=1),
        max_ms=parts.max(axis=1),
    )


def fit_mixed(records: Sequence[StepRecord], table: StepTable) -> MixedFit | None:
    """The laws against the mixed steps of one part; None without any.

    Parameters
    ----------
    records
        Records of the part, on all SMs.
    table
        What was fitted to its prefill and decode steps.
    """
    # 1. The three laws.
    laws = mixed_laws(records, table)
    if laws is None:
        return None
    measured = laws.measured_ms
    pieces = np.array([_pieces_ms(point, table) for point in laws.points])
    # 3. Factors on the two attentions; the linears stay as they are.
    left = np.maximum(measured - pieces[:, 0], 0.0)
    factors, _ = nnls(pieces[:, 1:] / measured[:, None], left / measured)
    return MixedFit(
        num_points=len(laws.points),
        # 2. Their errors.
        shared=LawError.of(laws.shared_ms, measured),
        sum=LawError.of(laws.sum_ms, measured),
        max=LawError.of(laws.max_ms, measured),
        chunk_attention_factor=float(factors[0]),
        decode_attention_factor=float(factors[1]),
    )


def chunk_of(point: StepPoint) -> StepPoint:
    """The prompts of a mixed step alone."""
    return StepPoint(new_tokens=point.new_tokens, past_tokens=point.past_tokens)


def decodes_of(point: StepPoint) -> StepPoint:
    """The decodes of a mixed step alone."""
    return StepPoint(num_decodes=point.num_decodes, kv_tokens=point.kv_tokens)


def _parts_ms(
    point: StepPoint, timed: dict[StepPoint, float], table: StepTable
) -> tuple[float, float]:
    """Time of the chunk and of the decodes, each in a step of its own."""
    chunk, decodes = chunk_of(point), decodes_of(point)
    past = chunk.past_tokens or None
    chunk_ms = timed.get(chunk) or table.prefill_step_ms(chunk.new_tokens, past)
    decode_ms = timed.get(decodes) or table.decode_step_ms(
        decodes.num_decodes, decodes.kv_tokens
    )
    return chunk_ms, decode_ms


def _pieces_ms(point: StepPoint, table: StepTable) -> tuple[float, float, float]:
    """Linears of all tokens, attention of the chunk, attention of the decodes."""
    batch, kv_tokens = point.num_decodes, point.kv_tokens
    whole = table.mixed_step_ms(
        point.new_tokens, point.past_tokens or None, batch, kv_tokens
    )
    chunk = table.prefill_per_sq_token_ms * point.squares
    decodes = table.decode_step_ms(batch, kv_tokens) - table.decode_step_ms(batch, 0.0)
    return whole - chunk - decodes, chunk, decodes
