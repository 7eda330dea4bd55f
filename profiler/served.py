"""ServedFile: what an engine did with its traces, so that it can be predicted later.

The runs are the costly part: with them, the calibration and a profile, every prediction
can be made again on any machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clusters.fields import check_fields, spec
from models.latency.step_table import StepTable
from profiler.calibration import Calibration
from profiler.engine import Engine, EngineLimits
from profiler.serving import OpenLoop, Served, ServedStep, ServingPolicy

FloatArray = NDArray[np.float64]

SERVED_VERSION = "phaseplan/served/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRun:
    """One trace as it was served."""

    policy: ServingPolicy = spec("How steps were formed.")
    load_frac: float = spec("Share of the predicted capacity.", unit="1", gt=0)
    rate_rps: float = spec("Arrival rate.", unit="requests/s", gt=0)
    arrival_ms: tuple[float, ...] = spec("Arrival of each request.", unit="ms")
    input_tokens: tuple[int, ...] = spec("Prompt lengths.", unit="tokens")
    output_tokens: tuple[int, ...] = spec("Answer lengths.", unit="tokens")
    first_token_ms: tuple[float | None, ...] = spec(
        "First tokens; None: never.", unit="ms"
    )
    finish_ms: tuple[float | None, ...] = spec("Last tokens; None: never.", unit="ms")
    steps: tuple[ServedStep, ...] = spec("Steps of the engine, in order.", default=())

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(
        cls, served: Served, *, policy: ServingPolicy, load_frac: float, rate_rps: float
    ) -> Self:
        """A run of `serve`."""
        asked = served.requests
        return cls(
            policy=policy,
            load_frac=load_frac,
            rate_rps=rate_rps,
            arrival_ms=tuple(asked.arrival_ms.tolist()),
            input_tokens=tuple(asked.input_tokens.tolist()),
            output_tokens=tuple(asked.output_tokens.tolist()),
            first_token_ms=_numbers(served.first_token_ms),
            finish_ms=_numbers(served.finish_ms),
            steps=served.steps,
        )

    def served(self) -> Served:
        """The run as `serve` gave it."""
        asked = OpenLoop(
            arrival_ms=np.array(self.arrival_ms),
            input_tokens=np.array(self.input_tokens),
            output_tokens=np.array(self.output_tokens),
        )
        return Served(
            requests=asked,
            first_token_ms=_array(self.first_token_ms),
            finish_ms=_array(self.finish_ms),
            steps=self.steps,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedFile:
    """Runs of one engine on one device."""

    api_version: str = spec("Format of the file.", default=SERVED_VERSION)
    device_name: str = spec("Device, as its driver says.")
    llm: str = spec("Name of the model.")
    backend: str = spec("Kernels of the engine.")
    limits: EngineLimits = spec("Sizes of the engine.")
    graph_sizes: tuple[int, ...] = spec(
        "Captured decode batches.", unit="requests", default=()
    )
    no_graphs: str = spec("Why there are none.", default="")
    calibration: Calibration = spec("The host's share of its steps.")
    runs: tuple[ServedRun, ...] = spec("Traces served.", default=())

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of_engine(
        cls,
        engine: Engine,
        device_name: str,
        calibration: Calibration,
        *,
        no_graphs: str | None,
    ) -> Self:
        """An engine that has served nothing yet."""
        return cls(
            device_name=device_name,
            llm=engine.llm.name,
            backend=engine.backend,
            limits=engine.limits,
            graph_sizes=engine.graph_sizes,
            no_graphs=no_graphs or "",
            calibration=calibration,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepError:
    """Steps of one kind as predicted and as they ran."""

    kind: str = spec("prefill, decode or mixed.")
    num_steps: int = spec("Steps.", unit="steps", ge=1)
    ratio: float = spec("Median of predicted over measured.", unit="1", ge=0)
    p90_frac: float = spec(
        "90th percentile of the absolute relative error.", unit="1", ge=0
    )
    total_ratio: float = spec("All predicted time over all measured.", unit="1", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)


def step_errors(
    steps: Sequence[ServedStep], table: StepTable, graph_sizes: Sequence[int] = ()
) -> tuple[StepError, ...]:
    """How far a calibrated table is from the steps that an engine ran, by kind.

    Batches of decodes alone are padded to the next of `graph_sizes`.
    """
    kinds: dict[str, list[tuple[float, float]]] = {}
    for step in steps:
        pair = (_predicted_ms(step, table, graph_sizes), step.ms)
        kinds.setdefault(step.kind, []).append(pair)
    found = []
    for kind, pairs in sorted(kinds.items()):
        predicted, measured = (np.array(column) for column in zip(*pairs, strict=True))
        ratios = predicted / np.maximum(measured, 1e-9)
        found.append(
            StepError(
                kind=kind,
                num_steps=len(pairs),
                ratio=float(np.median(ratios)),
                p90_frac=float(np.percentile(np.abs(ratios - 1.0), 90)),
                total_ratio=float(predicted.sum() / max(measured.sum(), 1e-9)),
            )
        )
    return tuple(found)


def _predicted_ms(
    step: ServedStep, table: StepTable, graph_sizes: Sequence[int]
) -> float:
    batch, kv = step.num_decodes, float(step.kv_tokens)
    if step.kind == "decode":
        padded = min((n for n in graph_sizes if n >= batch), default=batch)
        return table.decode_step_ms(padded, kv)
    # The log has the sum of the squares, not the prompts: one prompt of all tokens
    # stands for the linear layers, and its own squares are taken off again.
    tokens = step.prompt_tokens
    squares = table.prefill_per_sq_token_ms * (step.squares - float(tokens) ** 2)
    return table.mixed_step_ms([tokens], None, batch, kv) + squares


def _numbers(values: FloatArray) -> tuple[float | None, ...]:
    return tuple(v if np.isfinite(v) else None for v in values.tolist())


def _array(values: tuple[float | None, ...]) -> FloatArray:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
