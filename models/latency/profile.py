"""Profile: step tables fitted to the measurements of one machine, as a file.

A profile holds, for every model and tensor parallelism measured, one step table a kind
of layer and one for what is not a layer (embedding, last norm, LM head), so that a
pipeline stage of any number of layers follows from it.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import from_fields, from_mapping, to_mapping
from clusters.serde import dump_json, read_mapping
from models.latency.profile_mixed import MixedFit
from models.latency.profile_shares import ShareSlowdown
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.profile_records import Environment

PROFILE_VERSION = "phaseplan/profile/v1"
ENDS = "ends"
"""Part of a model that is not a layer: embedding, last norm, LM head."""
WHOLE = "whole"
"""A whole model on all its GPUs, as an endpoint shows it."""
HOST = "host"
"""What the serving loop adds to a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitError:
    """Relative error at points that were not fitted."""

    median_frac: float = spec("Median.", unit="1", ge=0)
    p90_frac: float = spec("90th percentile.", unit="1", ge=0)
    max_frac: float = spec("Largest.", unit="1", ge=0)
    num_points: int = spec("Points.", unit="points", ge=1)
    method: str = spec("held out, or cross-validation.")

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, errors: NDArray[np.float64], method: str) -> Self:
        """Percentiles of absolute relative errors."""
        return cls(
            median_frac=float(np.median(errors)),
            p90_frac=float(np.percentile(errors, 90)),
            max_frac=float(errors.max()),
            num_points=len(errors),
            method=method,
        )


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
    mixed: MixedFit | None = spec(
        "Measured mixed steps against the laws.", default=None
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
    left_out: tuple[tuple[str, int], ...] = spec("Points without one, by status.")
    unfitted: tuple[str, ...] = spec("Parts with too few points.", default=())
    stand_ins: tuple[str, ...] = spec(
        "Formats that were measured in place of the model's own.", default=()
    )
    sm_shares: tuple[ShareSlowdown, ...] = spec(
        "Slowdown on shares of the SMs, where measured.", default=()
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

    @classmethod
    def from_file_form(cls, data: object, *, file: str | None = None) -> Self:
        """A mapping of all fields, or the path of a profile file beside `file`."""
        if not isinstance(data, str):
            return from_fields(cls, data, file=file)
        return cls.load(Path(file).parent / data if file else Path(data))

    def only_of(self, *llms: LlmSpec) -> Self:
        """The profile with the measurements of these models alone.

        Raises
        ------
        InputError
            When there are none.
        """
        kept = tuple(m for m in self.models if any(m.is_of(llm) for llm in llms))
        if not kept:
            held = sorted({model.llm.name for model in self.models})
            names = ", ".join(llm.name for llm in llms)
            raise InputError("profile", names, f"one of {', '.join(held)}")
        return replace(self, models=kept)

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
