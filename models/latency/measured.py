"""Measured: step latencies from a profile of the user's own machine.

Layers were measured one shard at a time, so two things are added from the links of the
request: the two all-reduces of a tensor-parallel layer, and the hop to the next
pipeline stage (`models.communication`). Everything else is measured.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from clusters.fields import InputError, spec
from clusters.gpu import GpuType
from clusters.links import GroupLink
from models.communication import (
    CommunicationEfficiency,
    all_reduce_ms,
    pipeline_hop_ms,
)
from models.latency.layer_share import plus_line
from models.latency.mixed_extra import add_extras
from models.latency.profile import ENDS, WHOLE, Profile, ProfiledModel, part_of
from models.latency.request import (
    LatencyRequest,
    LatencyUnavailableError,
    Provenance,
    SourceRemarks,
)
from models.latency.step_table import StepTable, interpolate_array
from models.llm import LlmSpec
from models.shapes import ACTIVATION_BYTES

_ALL_REDUCES = 2
"""Of a tensor-parallel layer: after attention and after the feed-forward; one where
both run on the same input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSource:
    """A profile as a latency source."""

    profile: Profile = spec("The profile.")
    efficiency: CommunicationEfficiency = spec(
        "For all-reduces and pipeline hops.", default=CommunicationEfficiency()
    )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The source of a profile file."""
        return cls(profile=Profile.load(path))

    @property
    def name(self) -> str:
        """Name users select it by."""
        return "measured"

    @property
    def provenance(self) -> Provenance:
        """Kind of evidence."""
        return Provenance.MEASURED

    @property
    def expected_error_frac(self) -> float | None:
        """90th percentile at held-out points, of the worst part of any model."""
        return max(
            (part.error_frac for model in self.profile.models for part in model.parts),
            default=None,
        )

    def why_not_pair(self, llm: LlmSpec, gpu: GpuType) -> str | None:
        """None when the profile is of this GPU type and holds these very shapes."""
        if gpu.name != self.profile.gpu:
            return f"the profile is of {self.profile.gpu}, not {gpu.name}"
        if not any(model.is_of(llm) for model in self.profile.models):
            return f"no measurement of {llm.name}"
        return None

    def compile(self, request: LatencyRequest) -> tuple[StepTable, ...]:
        """One table a stage: its layers, the ends on the last, and communication."""
        request.refuse_ranks("the profile")
        model = self._model(request.llm, request.parallelism.tp)
        whole = model.part(WHOLE)
        if whole is not None:
            return (_whole_table(whole.table, request),)
        tables, first = [], 0
        for stage, num in enumerate(request.parallelism.layers_per_stage(request.llm)):
            is_last = stage == request.parallelism.pp - 1
            table = _stage_table(model, range(first, first + num), is_last=is_last)
            table = self._with_all_reduces(table, request, stage, num)
            if not is_last:
                table = self._with_hop(table, request, stage)
            tables.append(table)
            first += num
        return tuple(tables)

    def remarks(self, request: LatencyRequest) -> SourceRemarks:
        """Formats that were measured in place of the model's own."""
        model = self._model(request.llm, request.parallelism.tp)
        return SourceRemarks(
            notes=tuple(f"measured with {words}" for words in model.stand_ins),
            expected_error_frac=self.expected_error_frac,
        )

    def _model(self, llm: LlmSpec, tp: int) -> ProfiledModel:
        of_llm = {m.tp: m for m in self.profile.models if m.is_of(llm)}
        if tp not in of_llm:
            known = ", ".join(f"TP{degree}" for degree in sorted(of_llm))
            raise LatencyUnavailableError(
                f"{llm.name} was not measured at TP{tp} (measured: {known})"
            )
        return of_llm[tp]

    def _with_all_reduces(
        self, table: StepTable, request: LatencyRequest, stage: int, num_layers: int
    ) -> StepTable:
        tp = request.parallelism.tp
        if tp == 1:
            return table
        ring = request.links.tp[stage]

        def one_ms(num_bytes: float) -> float:
            return all_reduce_ms(
                num_bytes, ring, num_gpus=tp, efficiency=self.efficiency
            )

        calls = (1 if request.llm.parallel_branches else _ALL_REDUCES) * num_layers
        fixed_ms = calls * one_ms(0.0)
        token_bytes = float(ACTIVATION_BYTES * request.llm.hidden)
        return plus_line(table, fixed_ms, calls * one_ms(token_bytes) - fixed_ms)

    def _with_hop(
        self, table: StepTable, request: LatencyRequest, stage: int
    ) -> StepTable:
        link: GroupLink = request.links.pp[stage]
        token_bytes = float(ACTIVATION_BYTES * request.llm.hidden)
        fixed_ms = pipeline_hop_ms(0.0, link, efficiency=self.efficiency)
        sent_ms = pipeline_hop_ms(token_bytes, link, efficiency=self.efficiency)
        return plus_line(table, fixed_ms, sent_ms - fixed_ms)


def _stage_table(model: ProfiledModel, layers: range, *, is_last: bool) -> StepTable:
    counts: dict[str, int] = {}
    for layer in layers:
        name = part_of(model.llm, layer)
        counts[name] = counts.get(name, 0) + 1
    if is_last:
        counts[ENDS] = 1
    tables = []
    for name, count in counts.items():
        part = model.part(name)
        if part is None:
            raise LatencyUnavailableError(
                f"{model.llm.name} TP{model.tp}: part {name!r} was not measured"
            )
        tables.append(part.table.scaled(count))
    total = add_tables(tables)
    if not is_last:
        return total
    return with_overhead(
        total,
        prefill_ms=model.prefill_overhead_ms,
        decode_ms=model.decode_overhead_ms,
    )


def single_gpu_table(profile: Profile, llm: LlmSpec) -> StepTable:
    """The step table of a whole model on one GPU of a profile.

    Raises
    ------
    InputError
        When the profile does not hold the model at TP1, or lacks a part of it.
    """
    found = [m for m in profile.models if m.is_of(llm) and m.tp == 1]
    if not found:
        held = sorted({f"{m.llm.name} TP{m.tp}" for m in profile.models})
        raise InputError("profile", f"{llm.name} TP1", f"one of {', '.join(held)}")
    try:
        return _stage_table(found[0], range(llm.num_layers), is_last=True)
    except LatencyUnavailableError as error:
        raise InputError("profile", llm.name, str(error)) from None


def with_overhead(
    table: StepTable, *, prefill_ms: float, decode_ms: float
) -> StepTable:
    """The table with a fixed time added to every step."""
    return replace(
        table,
        prefill_ms=tuple(v + prefill_ms for v in table.prefill_ms),
        decode_ms=tuple(v + decode_ms for v in table.decode_ms),
    )


def with_floor(table: StepTable, *, prefill_ms: float) -> StepTable:
    """The table whose steps with prompts take at least so long.

    A knot is added where the floor is left behind.
    """
    tokens, values = list(table.prefill_tokens), list(table.prefill_ms)
    if len(tokens) > 1 and values[-1] > values[-2]:
        # The last slope goes on beyond the last knot: so does the search.
        slope = (values[-1] - values[-2]) / (tokens[-1] - tokens[-2])
        reach = max(0.0, prefill_ms - values[-1]) / slope + 1.0
        tokens.append(tokens[-1] + reach)
        values.append(values[-1] + slope * reach)
    for low in range(len(tokens) - 1):
        if values[low] < prefill_ms < values[low + 1]:
            share = (prefill_ms - values[low]) / (values[low + 1] - values[low])
            tokens.append(tokens[low] + share * (tokens[low + 1] - tokens[low]))
            values.append(prefill_ms)
    floored = {t: max(v, prefill_ms) for t, v in zip(tokens, values, strict=True)}
    return replace(
        table,
        prefill_tokens=tuple(sorted(floored)),
        prefill_ms=tuple(floored[t] for t in sorted(floored)),
    )


def _whole_table(table: StepTable, request: LatencyRequest) -> StepTable:
    if request.parallelism.pp > 1:
        raise LatencyUnavailableError(
            f"{request.llm.name} was measured as a whole, not in pipeline stages"
        )
    return table


def add_tables(tables: list[StepTable]) -> StepTable:
    """The table of parts that run one after the other."""
    tokens = np.unique(np.concatenate([t.prefill_tokens for t in tables]))
    batch = np.unique(np.concatenate([t.decode_batch for t in tables]))
    prefill = sum(
        interpolate_array(tokens, t.prefill_tokens, t.prefill_ms) for t in tables
    )
    decode = sum(interpolate_array(batch, t.decode_batch, t.decode_ms) for t in tables)
    per_token = sum(
        interpolate_array(batch, t.decode_batch, t.decode_per_kv_token_ms)
        for t in tables
    )
    return StepTable(
        prefill_tokens=_floats(tokens),
        prefill_ms=_floats(prefill),
        prefill_per_sq_token_ms=sum(t.prefill_per_sq_token_ms for t in tables),
        decode_batch=_floats(batch),
        decode_ms=_floats(decode),
        decode_per_kv_token_ms=_floats(per_token),
        mixed=add_extras([t.mixed for t in tables]),
    )


def _floats(values: object) -> tuple[float, ...]:
    return tuple(float(v) for v in np.asarray(values))
