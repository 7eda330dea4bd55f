"""Measured steps beside the latencies that phaseplan ships for the same GPU.

A record is of one layer, what is shipped is of whole models. So every measured point is
taken to the whole model: the profile's step table, with the layers as they were
measured at this point instead of as they were fitted. Beside it stand the table itself,
the shipped fits of an engine's operators and the roofline, all without host time.
All-reduces of shards are in each of them: from the link rate in ours, from the fits in
the shipped ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from clusters.fields import check_fields, spec
from clusters.gpu import GpuType
from clusters.links import GroupLink, GroupLinks, LinkKind
from models.latency.efficiency import RooflineEfficiency
from models.latency.fitted import FittedSource
from models.latency.measured import MeasuredSource
from models.latency.profile import Profile, ProfiledModel, layer_parts
from models.latency.request import (
    LatencyRequest,
    LatencySource,
    LatencyUnavailableError,
)
from models.latency.roofline import RooflineSource
from models.latency.step_table import StepTable
from models.parallelism import Parallelism
from models.profile_records import Status, StepPoint, StepRecord
from models.profile_table import ProfileTable
from profiler.grid import predicted_ms

_LINK_LATENCY_MS = 0.002
_ROOFLINE = RooflineSource(
    efficiency=replace(RooflineEfficiency(), step_overhead_ms=0.0)
)
_FITTED = FittedSource(step_overhead_ms=0.0)
_LONG_PROMPT_TOKENS = 512
_LARGE_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedStep:
    """A step of a whole model at one shard: measured, fitted, and as shipped."""

    model: str = spec("Model and shard.")
    point: StepPoint = spec("The step.")
    measured_ms: float = spec("Layers as measured.", unit="ms", gt=0)
    profile_ms: float = spec("Layers as fitted in the profile.", unit="ms", gt=0)
    shipped_ms: float | None = spec("Shipped fits; None: there are none.", unit="ms")
    roofline_ms: float = spec("From the datasheet.", unit="ms", gt=0)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def kind(self) -> str:
        """Phase and size, e.g. ``decode, 16 requests or more``."""
        if self.point.phase == "decode":
            is_large = self.point.num_decodes >= _LARGE_BATCH
            return f"decode, {_beside(_LARGE_BATCH, is_large)} requests"
        is_long = self.point.prompt_tokens >= _LONG_PROMPT_TOKENS
        return f"prefill, {_beside(_LONG_PROMPT_TOKENS, is_long)} tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedDifference:
    """How far the steps of one kind are from what is shipped."""

    model: str = spec("Model and shard.")
    kind: str = spec("Phase and size.")
    num_points: int = spec("Points.", unit="points", ge=1)
    shipped_frac: float | None = spec(
        "Median of shipped over measured, less 1.", unit="1"
    )
    roofline_frac: float = spec("Median of roofline over measured, less 1.", unit="1")
    within_frac: float | None = spec(
        "Share of the points where shipped is within 10 %.", unit="1"
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedComparison:
    """All steps that can be compared, and why others cannot."""

    steps: tuple[ShippedStep, ...] = spec("Model by model.")
    left_out: tuple[str, ...] = spec("Models, or everything, and why.", default=())

    def differences(self) -> tuple[ShippedDifference, ...]:
        """The steps by model and kind."""
        groups: dict[tuple[str, str], list[ShippedStep]] = {}
        for step in self.steps:
            groups.setdefault((step.model, step.kind), []).append(step)
        return tuple(
            _difference(model, kind, steps) for (model, kind), steps in groups.items()
        )


def compare_shipped(table: ProfileTable, profile: Profile) -> ShippedComparison:
    """Every measured prefill and decode step of a profile's models, and the shipped.

    Parameters
    ----------
    table
        The records.
    profile
        What was fitted to them; it names the GPU type.
    """
    if profile.gpu not in GpuType.names():
        return ShippedComparison(
            steps=(), left_out=(f"{profile.gpu} is not in the catalogue of GPUs",)
        )
    gpu = GpuType.load(profile.gpu)
    steps: list[ShippedStep] = []
    left_out: list[str] = []
    for model in profile.models:
        try:
            steps += _steps_of(model, table, profile, gpu)
        except LatencyUnavailableError as error:
            left_out.append(f"{_name(model)}: {error}")
    return ShippedComparison(steps=tuple(steps), left_out=tuple(left_out))


def _steps_of(
    model: ProfiledModel, table: ProfileTable, profile: Profile, gpu: GpuType
) -> list[ShippedStep]:
    request = LatencyRequest(
        llm=model.llm,
        parallelism=Parallelism(tp=model.tp),
        gpu=gpu,
        links=GroupLinks(tp=(_ring(gpu),)),
    )
    (ours,) = MeasuredSource(profile=replace(profile, models=(model,))).compile(request)
    roofline = _table_of(_ROOFLINE, request)
    assert roofline is not None
    shipped = _table_of(_FITTED, request)
    found = []
    for point, times in _measured(model, table).items():
        whole = predicted_ms(ours, point)
        layers = layer_parts(model.llm)
        if times.keys() != layers.keys():
            continue  # a kind of layer was not measured at this very point
        measured = whole
        for part, num in layers.items():
            fitted = model.part(part)
            assert fitted is not None
            measured += num * (times[part] - predicted_ms(fitted.table, point))
        found.append(
            ShippedStep(
                model=_name(model),
                point=point,
                measured_ms=measured,
                profile_ms=whole,
                shipped_ms=predicted_ms(shipped, point) if shipped else None,
                roofline_ms=predicted_ms(roofline, point),
            )
        )
    return found


def _measured(
    model: ProfiledModel, table: ProfileTable
) -> Mapping[StepPoint, Mapping[str, float]]:
    """Time of a layer by point and kind of layer, on all SMs."""
    found: dict[StepPoint, dict[str, float]] = {}
    for record in table.steps:
        if _is_of(record, model) and record.point.phase != "mixed":
            assert record.step is not None
            found.setdefault(record.point, {})[record.part] = record.step.ms
    parts = layer_parts(model.llm)
    return {
        point: {part: ms for part, ms in times.items() if part in parts}
        for point, times in sorted(found.items(), key=lambda pair: _order(pair[0]))
    }


def _is_of(record: StepRecord, model: ProfiledModel) -> bool:
    identity = (record.llm, record.tp, record.dtype)
    return (
        identity == (model.llm, model.tp, model.dtype)
        and record.status is Status.OK
        and record.sm_share_frac == 1.0
    )


def _table_of(source: LatencySource, request: LatencyRequest) -> StepTable | None:
    if source.why_not_pair(request.llm, request.gpu):
        return None
    try:
        return source.compile(request)[0]
    except LatencyUnavailableError:
        return None


def _ring(gpu: GpuType) -> GroupLink:
    rate = gpu.nvlink_bytes_per_s or gpu.pcie_bytes_per_s
    kind = LinkKind.NVLINK if gpu.nvlink_bytes_per_s else LinkKind.PCIE
    return GroupLink(bytes_per_s=rate, latency_ms=_LINK_LATENCY_MS, kind=kind)


def _difference(model: str, kind: str, steps: list[ShippedStep]) -> ShippedDifference:
    measured = np.array([step.measured_ms for step in steps])
    roofline = np.array([step.roofline_ms for step in steps]) / measured - 1.0
    shipped = [step.shipped_ms for step in steps if step.shipped_ms is not None]
    errors = np.array(shipped) / measured - 1.0 if shipped else None
    return ShippedDifference(
        model=model,
        kind=kind,
        num_points=len(steps),
        shipped_frac=None if errors is None else float(np.median(errors)),
        roofline_frac=float(np.median(roofline)),
        within_frac=None if errors is None else float(np.mean(np.abs(errors) <= 0.1)),
    )


def _order(point: StepPoint) -> tuple[bool, int, int, float]:
    return (
        point.phase == "decode",
        point.prompt_tokens,
        point.num_decodes,
        point.kv_tokens + point.squares,
    )


def _beside(edge: int, is_above: bool) -> str:
    return f"{edge} or more" if is_above else f"under {edge}"


def _name(model: ProfiledModel) -> str:
    return f"{model.llm.name} TP{model.tp} {model.dtype}"
