"""Mixed steps: a prompt chunk that rides with decodes, against four laws.

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
    3. The fitted law: the first one with a factor on the attention of the chunk, one
       on that of the decodes, and a share of the decodes' linears that is not shared
       with the chunk (0: weights are read once; 1: as in a step of their own). By
       non-negative least squares of relative errors, far points weighted down.
    4. Its error when a fifth of the steps is left out in turn. Where that is clearly
       less than the error of the first law, the fitted law is what is simulated: the
       step table gets the difference (`MixedExtra`). Otherwise nothing changes.

A factor that the measured steps say little about stays near 1: moving it by 1 counts as
much as an error of `_PRIOR_FRAC` at one step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from clusters.fields import check_fields, spec
from models.latency.mixed_extra import MixedExtra
from models.latency.step_table import StepTable, interpolate_array
from models.profile_records import StepPoint, StepRecord

FloatArray = NDArray[np.float64]

_PRIOR_FRAC = 0.02
_MIN_POINTS = 6
"""Mixed steps without which the fitted law is not trusted."""
_FOLDS = 5
_CLEARLY = 0.8
"""The fitted law is used if its mean error is below this part of the first law's."""
_HUBER = 1.5
_ROUNDS = 12


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
    shared: LawError = spec("Linears once, attention added: the law without a fit.")
    sum: LawError = spec("Chunk and decodes one after the other.")
    max: LawError = spec("The longer of the two.")
    chunk_attention_factor: float = spec(
        "Best factor on the attention of the chunk.", unit="1", ge=0
    )
    decode_attention_factor: float = spec(
        "Best factor on the attention of the decodes.", unit="1", ge=0
    )
    unshared_linear_frac: float = spec(
        "Best share of the decodes' linears that the chunk does not share.",
        unit="1",
        ge=0,
        default=0.0,
    )
    fitted: LawError | None = spec(
        "The law with these three, at steps left out of its fit; None: too few steps.",
        default=None,
    )
    is_simulated: bool = spec(
        "Whether the fitted law is simulated, not the shared one.", default=False
    )

    @property
    def laws(self) -> tuple[LawError | None, ...]:
        """Errors of the shared law, the sum, the maximum, and the fitted law."""
        return self.shared, self.sum, self.max, self.fitted

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
    table = replace(table, mixed=None)
    timed = {r.point: r.step.ms for r in records if r.step is not None}
    points = tuple(point for point in timed if point.phase == "mixed")
    if not points:
        return None
    parts = np.array([_parts_ms(point, timed, table) for point in points])
    return MixedLaws(
        points=points,
        measured_ms=np.array([timed[point] for point in points]),
        shared_ms=np.array([_shared_ms(point, table) for point in points]),
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
    # 3. The fitted law.
    unshared, chunk, decodes = _factors(pieces, measured).tolist()
    # 4. Its error at steps it has not seen.
    shared = LawError.of(laws.shared_ms, measured)
    fitted, is_better = None, False
    if len(measured) >= _MIN_POINTS:
        unseen_ms = _unseen_ms(pieces, measured)
        fitted = LawError.of(unseen_ms, measured)
        least = _mean_error(laws.shared_ms, measured)
        is_better = _mean_error(unseen_ms, measured) < _CLEARLY * least
    return MixedFit(
        num_points=len(laws.points),
        # 2. Their errors.
        shared=shared,
        sum=LawError.of(laws.sum_ms, measured),
        max=LawError.of(laws.max_ms, measured),
        chunk_attention_factor=chunk,
        decode_attention_factor=decodes,
        unshared_linear_frac=unshared,
        fitted=fitted,
        is_simulated=is_better,
    )


def with_mixed_law(table: StepTable, fit: MixedFit | None) -> StepTable:
    """The table with the fitted law of mixed steps, where that is the better one."""
    if fit is None or not fit.is_simulated:
        return table
    top = table.decode_batch[-1]
    inner = [tokens for tokens in table.prefill_tokens if tokens < top]
    batch = np.unique(np.array([*table.decode_batch, *inner]))
    slope = interpolate_array(batch, table.decode_batch, table.decode_per_kv_token_ms)
    more = fit.decode_attention_factor - 1.0
    extra = MixedExtra(
        per_sq_token_ms=table.prefill_per_sq_token_ms
        * (fit.chunk_attention_factor - 1.0),
        batch=tuple(batch.tolist()),
        ms=tuple((fit.unshared_linear_frac * _own_linears_ms(table, batch)).tolist()),
        per_kv_token_ms=tuple((more * slope).tolist()),
    )
    return replace(table, mixed=extra)


def fitted_ms(point: StepPoint, table: StepTable, fit: MixedFit) -> float:
    """The fitted law at one mixed step, whether it is simulated or not, in ms."""
    factors = (
        1.0,
        fit.unshared_linear_frac,
        fit.chunk_attention_factor,
        fit.decode_attention_factor,
    )
    return float(np.dot(_pieces_ms(point, table), factors))


def _factors(pieces: FloatArray, measured: FloatArray) -> FloatArray:
    """Step 3: unshared share and the factors of both attentions, shape (3,)."""
    columns = pieces[:, 1:] / measured[:, None]
    left = 1.0 - pieces[:, 0] / measured
    usual = np.array([0.0, 1.0, 1.0])
    weights = np.ones(len(measured))
    factors = usual
    for _ in range(_ROUNDS):
        previous = factors
        root = np.sqrt(weights)
        matrix = np.vstack([columns * root[:, None], _PRIOR_FRAC * np.eye(3)])
        factors, _norm = nnls(matrix, np.append(left * root, _PRIOR_FRAC * usual))
        residuals = np.abs(columns @ factors - left)
        sigma = max(1.4826 * float(np.median(residuals)), 1e-4)
        weights = np.minimum(1.0, _HUBER * sigma / np.maximum(residuals, 1e-12))
        if np.allclose(factors, previous, rtol=1e-4, atol=1e-6):
            break
    return factors


def _unseen_ms(pieces: FloatArray, measured: FloatArray) -> FloatArray:
    """The law at every step when the others of its fold are left out too."""
    order = np.argsort(np.argsort(measured, kind="stable"), kind="stable")
    found = np.empty_like(measured)
    for fold in range(_FOLDS):
        out = order % _FOLDS == fold
        factors = _factors(pieces[~out], measured[~out])
        found[out] = pieces[out] @ np.append(1.0, factors)
    return found


def _mean_error(law_ms: FloatArray, measured_ms: FloatArray) -> float:
    return float(np.abs(law_ms / measured_ms - 1.0).mean())


def _own_linears_ms(table: StepTable, batch: FloatArray) -> FloatArray:
    """Linears of a decode step that a mixed one has once for all: min(F(B), G(B))."""
    fixed = interpolate_array(batch, table.decode_batch, table.decode_ms)
    linear = interpolate_array(batch, table.prefill_tokens, table.prefill_ms)
    return np.minimum(fixed, linear)


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


def _shared_ms(point: StepPoint, table: StepTable) -> float:
    return table.mixed_step_ms(
        point.new_tokens,
        point.past_tokens or None,
        point.num_decodes,
        point.kv_tokens,
    )


def _pieces_ms(point: StepPoint, table: StepTable) -> tuple[float, ...]:
    """The first law in pieces, and what the fit may add to it, in ms.

    Linears of all tokens with what decodes have beside them; linears of the decodes
    alone (not part of the law); attention of the chunk; attention of the decodes.
    """
    batch, kv_tokens = point.num_decodes, point.kv_tokens
    whole = _shared_ms(point, replace(table, mixed=None))
    chunk = table.prefill_per_sq_token_ms * point.squares
    decodes = table.decode_step_ms(batch, kv_tokens) - table.decode_step_ms(batch, 0.0)
    own = float(_own_linears_ms(table, np.array([float(batch)]))[0])
    return whole - chunk - decodes, own, chunk, decodes
