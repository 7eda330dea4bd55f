"""Suite: the models and shards that one campaign on a GPU machine measures.

The first subject is the one that `validate` serves afterwards; the others are the
shapes of the examples and of the shipped fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clusters.fields import spec
from clusters.gpu import Dtype
from models.latency.profile import ENDS, layer_parts
from models.llm import LlmSpec, Precision, WeightFormat
from profiler.grid import GridLimits
from profiler.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteEntry:
    """A model of the suite."""

    llm: str = spec("Catalogue name.")
    tps: tuple[int, ...] = spec("Shards.", default=(1,))
    is_fp8: bool = spec("With fp8 weights.", default=False)
    has_ends: bool = spec("With embedding and LM head.", default=True)
    parts: tuple[str, ...] = spec("Kinds of layers; empty: all.", default=())


QUICK = (SuiteEntry(llm="llama-3.1-8b"),)
"""One model, for a first look."""

FULL = (
    SuiteEntry(llm="llama-3.1-8b"),
    SuiteEntry(llm="llama-3.1-70b", tps=(1, 2, 4, 8)),
    SuiteEntry(llm="qwen3-32b", tps=(1, 2, 4)),
    SuiteEntry(llm="qwen3-30b-a3b"),
    SuiteEntry(llm="opt-13b", tps=(1, 2, 4)),
    SuiteEntry(llm="opt-66b", tps=(4,)),
    SuiteEntry(llm="llama-3.1-8b", is_fp8=True),
    SuiteEntry(llm="llama-3.1-70b", tps=(4,), is_fp8=True),
    SuiteEntry(llm="deepseek-v3", tps=(8,), has_ends=False, parts=("dense",)),
)
"""What one campaign measures, the most wanted first."""

SUITES = {"quick": QUICK, "full": FULL}

SMALL_LIMITS = GridLimits(
    max_prompt_tokens=256,
    max_past_tokens=256,
    max_requests=16,
    max_context_tokens=256,
    max_kv_tokens=2048,
)
"""A grid for trying things on a CPU."""


def suite_subjects(
    entries: Sequence[SuiteEntry], *, dtype: str, has_fp8: bool
) -> tuple[Subject, ...]:
    """Subjects of the entries that the device can multiply, in order."""
    subjects: list[Subject] = []
    for entry in entries:
        if entry.is_fp8 and not has_fp8:
            continue
        llm = LlmSpec.load(entry.llm)
        if entry.is_fp8:
            llm = with_fp8_weights(llm)
        parts = list(entry.parts or layer_parts(llm))
        parts += [ENDS] if entry.has_ends else []
        subjects += [
            Subject(llm=llm, tp=tp, part=part, dtype=dtype)
            for tp in entry.tps
            for part in parts
        ]
    return tuple(subjects)


def with_fp8_weights(llm: LlmSpec) -> LlmSpec:
    """The model with its projections in fp8, the rest as it was."""
    fp8 = WeightFormat.plain(Dtype.FP8)
    precision: Precision = replace(llm.precision, attention=fp8, mlp=fp8)
    return replace(llm, name=f"{llm.name}-fp8", precision=precision)
