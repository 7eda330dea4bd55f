"""From records to a profile: every part of every model fitted, and what is left out."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from clusters.fields import InputError
from models.latency.profile import (
    ENDS,
    HOST,
    WHOLE,
    Ceiling,
    Profile,
    ProfiledModel,
    ProfiledPart,
)
from models.latency.profile_fit import fit_decode, fit_prefill, step_table_of
from models.latency.profile_mixed import fit_mixed, with_mixed_law
from models.latency.profile_shares import ShareSlowdown, share_slowdowns
from models.llm import LlmSpec
from models.profile_records import Status, StepRecord
from models.profile_table import ProfileTable

_SHARES = "SM shares"


def fit_profile(
    table: ProfileTable, *, gpu: str | None = None, skip_unfitted: bool = False
) -> Profile:
    """Fit every model in a table of records.

    Parameters
    ----------
    table
        Records of one environment.
    gpu
        GPU type the profile stands for; None: as the records say.
    skip_unfitted
        Leave out parts with too few points (and say so) instead of an error.

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
    fitted = [
        _fit_model(records, skip_unfitted=skip_unfitted) for records in groups.values()
    ]
    models = [model for model in fitted if model.parts]
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


def _fit_model(records: Sequence[StepRecord], *, skip_unfitted: bool) -> ProfiledModel:
    first = records[0]
    usable = [r for r in records if r.status is Status.OK]
    whole = [r for r in usable if r.sm_share_frac == 1.0]
    names = dict.fromkeys(r.part for r in records if r.part != HOST)
    parts: list[ProfiledPart] = []
    shares: tuple[ShareSlowdown, ...] = ()
    unfitted: list[str] = []
    for name in (*names, _SHARES):
        try:
            if name == _SHARES:
                shares = share_slowdowns(usable)
            else:
                parts.append(_fit_part(name, [r for r in whole if r.part == name]))
        except InputError as error:
            if not skip_unfitted:
                raise error.within(f"{first.llm.name} TP{first.tp} {name}") from None
            unfitted.append(f"{name}: {error}")
    host = [r for r in whole if r.part == HOST]
    return ProfiledModel(
        llm=first.llm,
        tp=first.tp,
        dtype=first.dtype,
        backend=first.backend,
        parts=tuple(parts),
        prefill_overhead_ms=_overhead_ms(host, "prefill"),
        decode_overhead_ms=_overhead_ms(host, "decode"),
        num_points=len(usable),
        left_out=tuple(
            (str(status), count)
            for status, count in sorted(Counter(r.status for r in records).items())
            if status is not Status.OK
        ),
        unfitted=tuple(unfitted),
        stand_ins=tuple(sorted({r.note for r in usable if r.note and r.part != WHOLE})),
        sm_shares=shares,
    )


def _fit_part(name: str, records: Sequence[StepRecord]) -> ProfiledPart:
    attends = name != ENDS
    prefill = fit_prefill(records, has_attention=attends)
    decode = fit_decode(records, has_attention=attends)
    table = step_table_of(prefill, decode)
    mixed = fit_mixed(records, table)
    return ProfiledPart(
        part=name,
        table=with_mixed_law(table, mixed),
        prefill_error=prefill.error,
        decode_error=decode.error,
        max_prompt_tokens=max(r.point.prompt_tokens for r in records),
        max_requests=max(r.point.num_decodes for r in records),
        max_kv_tokens=max(r.point.kv_tokens for r in records),
        mixed=mixed,
    )


def _overhead_ms(records: Sequence[StepRecord], phase: str) -> float:
    found = [r.step.ms for r in records if r.step and r.point.phase == phase]
    return float(np.median(found)) if found else 0.0
