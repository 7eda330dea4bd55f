"""Profile: step tables fitted to the measurements of one machine, as a file.

A profile holds, for every model and tensor parallelism measured, one step table a kind
of layer and one for what is not a layer (embedding, last norm, LM head), so that a
pipeline stage of any number of layers follows from it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import from_mapping, to_mapping
from clusters.serde import dump_json, read_mapping
from models.latency.profile_fit import (
    FitError,
    fit_decode,
    fit_prefill,
    step_table_of,
)
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.profile_records import Environment, Status, StepRecord
from models.profile_table import ProfileTable

PROFILE_VERSION = "phaseplan/profile/v1"
ENDS = "ends"
"""Part of a model that is not a layer: embedding, last norm, LM head."""
WHOLE = "whole"
"""A whole model on all its GPUs, as an endpoint shows it."""
HOST = "host"
"""What the serving loop adds to a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """The best rate a plain kernel reached on the device."""

    name: str = spec("copy, matmul_bf16, ...")
    per_s: float = spec("Bytes or FLOP a second.", unit="1/s", gt=0)
    rate_unit: str = spec("bytes/s or FLOP/s.")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledPart:
    """The fitted steps of one part of a model."""

    part: str = spec("dense, moe, dense_window4096, ..., ends, or whole.")
    table: StepTable = spec("Step table of one layer, or of the part.")
    prefill_error: FitError = spec("Of prefill steps.")
    decode_error: FitError = spec("Of decode steps.")
    max_prompt_tokens: int = spec("Largest prefill measured.", unit="tokens", ge=1)
    max_requests: int = spec("Largest decode batch measured.", unit="requests", ge=1)
    max_kv_tokens: float = spec(
        "Most tokens a measured decode attended to.", unit="tokens", ge=1
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def error_frac(self) -> float:
        """90th percentile of the worse phase."""
        return max(self.prefill_error.p90_frac, self.decode_error.p90_frac)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledModel:
    """One model at one tensor parallelism."""

    llm: LlmSpec = spec("The model.")
    tp: int = spec("Tensor parallelism.", unit="GPUs", ge=1)
    dtype: str = spec("Number format of the activations.")
    backend: str = spec("Kernels.", default="")
    parts: tuple[ProfiledPart, ...] = spec("Fitted parts.")
    prefill_overhead_ms: float = spec(
        "Serving loop, each prefill step.", unit="ms", ge=0, default=0.0
    )
    decode_overhead_ms: float = spec(
        "Serving loop, each decode step.", unit="ms", ge=0, default=0.0
    )
    num_points: int = spec("Points with a number.", unit="points", ge=0)
    left_out: dict[str, int] = spec("Points without one, by status.")
    mixed_to_sum_frac: float | None = spec(
        "Median of mixed steps over prefill plus decode.", unit="1", default=None
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def part(self, name: str) -> ProfiledPart | None:
        """The part of that name, if it was measured."""
        return next((p for p in self.parts if p.part == name), None)

    def is_of(self, llm: LlmSpec) -> bool:
        """Whether `llm` has exactly these shapes and formats, whatever its name."""
        names = [name for name in LlmSpec.__dataclass_fields__ if name != "name"]
        return all(getattr(self.llm, name) == getattr(llm, name) for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Everything fitted to one file of records."""

    api_version: str = spec("Format of the file.", default=PROFILE_VERSION)
    gpu: str = spec("GPU type it stands for.")
    environment: Environment = spec("Where it was measured.")
    models: tuple[ProfiledModel, ...] = spec("By model and tensor parallelism.")
    ceilings: tuple[Ceiling, ...] = spec("Best rates of plain kernels.", default=())

    def __post_init__(self) -> None:
        if self.api_version != PROFILE_VERSION:
            form = f"'{PROFILE_VERSION}'"
            raise InputError("api_version", self.api_version, form)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a profile file (``profile.json``).

        Raises
        ------
        InputError
            When it is missing or no profile.
        """
        return from_mapping(cls, read_mapping(path), file=str(path))

    def to_json(self) -> str:
        """Its file."""
        return dump_json(to_mapping(self))


def part_of(llm: LlmSpec, layer: int) -> str:
    """The kind of a layer: layers of one kind cost the same."""
    kind = "moe" if llm.is_moe_layer(layer) else "dense"
    window = llm.window(layer)
    return kind if window is None else f"{kind}_window{window}"


def layer_parts(llm: LlmSpec) -> dict[str, int]:
    """How many layers of each kind a model has, in order of appearance."""
    return dict(Counter(part_of(llm, layer) for layer in range(llm.num_layers)))


def fit_profile(table: ProfileTable, *, gpu: str | None = None) -> Profile:
    """Fit every model in a table of records.

    Parameters
    ----------
    table
        Records of one environment.
    gpu
        GPU type the profile stands for; None: as the records say.

    Raises
    ------
    InputError
        On records of several environments, or too few points of a part.
    """
    environment = table.environment()
    groups: dict[tuple[LlmSpec, int, str], list[StepRecord]] = {}
    for record in table.steps:
        key = (record.llm, record.tp, record.dtype)
        groups.setdefault(key, []).append(record)
    models = [_fit_model(records) for records in groups.values()]
    if not models:
        raise InputError("records", "none", "at least one step record")
    return Profile(
        gpu=gpu or environment.gpu,
        environment=environment,
        models=tuple(models),
        ceilings=tuple(
            Ceiling(name=r.name, per_s=r.per_s, rate_unit=r.rate_unit)
            for r in {r.name: r for r in table.rates}.values()
        ),
    )


def _fit_model(records: Sequence[StepRecord]) -> ProfiledModel:
    first = records[0]
    usable = [r for r in records if r.status is Status.OK]
    names = dict.fromkeys(r.part for r in records if r.part != HOST)
    parts = []
    for name in names:
        of_part = [r for r in usable if r.part == name]
        try:
            parts.append(_fit_part(name, of_part))
        except InputError as error:
            raise error.within(f"{first.llm.name} TP{first.tp} {name}") from None
    host = [r for r in usable if r.part == HOST]
    return ProfiledModel(
        llm=first.llm,
        tp=first.tp,
        dtype=first.dtype,
        backend=first.backend,
        parts=tuple(parts),
        prefill_overhead_ms=_overhead_ms(host, "prefill"),
        decode_overhead_ms=_overhead_ms(host, "decode"),
        num_points=len(usable),
        left_out={
            str(status): count
            for status, count in sorted(Counter(r.status for r in records).items())
            if status is not Status.OK
        },
        mixed_to_sum_frac=_mixed_to_sum(usable, parts),
    )


def _fit_part(name: str, records: Sequence[StepRecord]) -> ProfiledPart:
    prefill, decode = fit_prefill(records), fit_decode(records)
    return ProfiledPart(
        part=name,
        table=step_table_of(prefill, decode),
        prefill_error=prefill.error,
        decode_error=decode.error,
        max_prompt_tokens=max(r.point.prompt_tokens for r in records),
        max_requests=max(r.point.num_decodes for r in records),
        max_kv_tokens=max(r.point.kv_tokens for r in records),
    )


def _overhead_ms(records: Sequence[StepRecord], phase: str) -> float:
    found = [r.step.ms for r in records if r.step and r.point.phase == phase]
    return float(np.median(found)) if found else 0.0


def _mixed_to_sum(
    records: Sequence[StepRecord], parts: Sequence[ProfiledPart]
) -> float | None:
    """Measured mixed steps over the sum of their fitted prefill and decode."""
    tables = {part.part: part.table for part in parts}
    ratios = []
    for record in records:
        point, table = record.point, tables.get(record.part)
        if point.phase != "mixed" or table is None or record.step is None:
            continue
        alone = table.prefill_step_ms(point.new_tokens, point.past_tokens or None)
        decodes = table.decode_step_ms(point.num_decodes, point.kv_tokens)
        ratios.append(record.step.ms / (alone + decodes))
    return float(np.median(ratios)) if ratios else None
