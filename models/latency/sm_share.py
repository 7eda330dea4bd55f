"""Slowdown of a step that has only a share of the GPU's SMs.

Reference
    Duan et al., "MuxServe: Flexible Spatial-Temporal Multiplexing for Multiple LLM
    Serving", ICML 2024, arXiv 2404.02015: the released cost table of LLaMA 7B to 65B on
    A100, at 30 to 100 % of the SMs (CUDA MPS).

A decode step is bound by memory, so half of the SMs cost it little until the batch is
large; a prefill step slows nearly in proportion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

import numpy as np

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import from_mapping
from clusters.serde import read_mapping
from models.flops import num_parameters
from models.llm import LlmSpec

_FILE = Path(__file__).parents[1] / "catalog" / "published" / "muxserve_sm_share.yaml"


class StepPhase(StrEnum):
    """Kinds of steps."""

    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareSlowdowns:
    """Slowdown of one model's steps by share of the SMs and batch."""

    llm: str = spec("Catalogue name of the LLM.")
    tp: int = spec("Tensor parallelism.", unit="GPUs", ge=1)
    phase: StepPhase = spec("Kind of step.")
    share_frac: tuple[float, ...] = spec("Shares measured, up to 1.", unit="1")
    num_requests: tuple[float, ...] = spec("Batches measured.", unit="requests")
    slowdown: tuple[tuple[float, ...], ...] = spec(
        "Time over that on all SMs, a row for each batch.", unit="1"
    )

    def __post_init__(self) -> None:
        check_fields(self)
        _check_rising("share_frac", self.share_frac)
        _check_rising("num_requests", self.num_requests)
        if self.share_frac[-1] != 1.0:
            raise InputError("share_frac", self.share_frac, "shares up to 1")
        grid = np.asarray(self.slowdown, dtype=np.float64)
        shape = len(self.num_requests), len(self.share_frac)
        if grid.shape != shape:
            form = f"{shape[0]} rows of {shape[1]} numbers"
            raise InputError("slowdown", grid.shape, form)
        if (grid[:, -1] != 1.0).any() or (np.diff(grid, axis=1) > 0).any():
            raise InputError("slowdown", self.slowdown, "rows that fall to 1")

    def at(self, sm_share_frac: float, *, num_requests: float = 1.0) -> float:
        """Slowdown on a share of the SMs, between the measured shares and batches.

        Below the smallest share it grows as its inverse, as steps bound by compute do;
        beyond the measured batches the last one holds.

        Raises
        ------
        InputError
            On a share that is not above 0 and at most 1.
        """
        if not 0 < sm_share_frac <= 1:
            raise InputError("sm_share_frac", sm_share_frac, "a number > 0 and <= 1")
        least = self.share_frac[0]
        inside = max(sm_share_frac, least)
        # Linear in 1 / share, where compute-bound steps are straight.
        inverse = 1.0 / np.asarray(self.share_frac[::-1])
        rows = [np.interp(1.0 / inside, inverse, row[::-1]) for row in self.slowdown]
        between = np.interp(np.log(num_requests), np.log(self.num_requests), rows)
        return float(between) * least / min(sm_share_frac, least)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareTable:
    """A file of slowdowns on one GPU type."""

    source: str = spec("Where they were published.")
    date: str = spec("When.")
    gpu: str = spec("Catalogue name of the GPU type.")
    slowdowns: tuple[ShareSlowdowns, ...] = spec("By model, parallelism and phase.")

    def of(self, llm: LlmSpec, tp: int, phase: StepPhase) -> ShareSlowdowns:
        """The slowdowns of `llm`, or of the measured model nearest in size per GPU.

        A model is bound by the same things as one with as many weights on each GPU, so
        the nearest in that number stands in for one that was not measured.
        """
        wanted = np.log(_weights_per_gpu(llm, tp))
        same = [entry for entry in self.slowdowns if entry.phase is phase]
        return min(
            same,
            key=lambda entry: (
                not (llm.is_catalog_model(entry.llm) and entry.tp == tp),
                abs(
                    np.log(_weights_per_gpu(LlmSpec.load(entry.llm), entry.tp)) - wanted
                ),
            ),
        )


@cache
def load_share_table(path: Path = _FILE) -> ShareTable:
    """Read and check a file of slowdowns."""
    return from_mapping(ShareTable, read_mapping(path), file=str(path))


def _weights_per_gpu(llm: LlmSpec, tp: int) -> float:
    return num_parameters(llm) / tp


def _check_rising(key: str, values: Sequence[float]) -> None:
    array = np.asarray(values, dtype=np.float64)
    if len(array) == 0 or array[0] <= 0 or (np.diff(array) <= 0).any():
        raise InputError(key, values, "numbers > 0 in strictly rising order")
