"""Slowdown on a share of the SMs, from the same steps on a part and on all of the GPU.

What multiplexed placements need to know: how much longer a prefill or a decode step
takes when another model has the rest of the streaming multiprocessors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clusters.fields import InputError, check_fields, spec
from models.profile_records import StepRecord

Case = tuple[str, str, object]
"""Part, dtype and point of a record: what two shares are compared on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareSlowdown:
    """Steps of a phase and batch on a share of the SMs, over those on all of them."""

    sm_share_frac: float = spec("Share of the SMs.", unit="1", gt=0, lt=1)
    phase: str = spec("prefill or decode.")
    num_requests: int = spec(
        "Requests of the steps: decodes of large batches slow down more.",
        unit="requests",
        ge=1,
    )
    slowdown: float = spec("Median time over that on all SMs.", unit="1", gt=0)
    least: float = spec("Smallest of the points.", unit="1", gt=0)
    most: float = spec("Largest of the points.", unit="1", gt=0)
    num_points: int = spec("Points.", unit="points", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)


def share_slowdowns(records: Sequence[StepRecord]) -> tuple[ShareSlowdown, ...]:
    """Slowdown by share, phase and batch, largest share first.

    Parameters
    ----------
    records
        Records of one model at one tensor parallelism, on shares and on all SMs.

    Raises
    ------
    InputError
        When there are steps on a share, and none of them was measured on all SMs.
    """
    timed = [r for r in records if r.step is not None]
    whole = {_case(r): _ms(r) for r in timed if r.sm_share_frac == 1.0}
    partial = [r for r in timed if r.sm_share_frac < 1.0]
    ratios: dict[tuple[float, str, int], list[float]] = {}
    for record in partial:
        base = whole.get(_case(record))
        if base is not None:
            point = record.point
            requests = point.num_decodes + len(point.new_tokens)
            key = (record.sm_share_frac, point.phase, requests)
            ratios.setdefault(key, []).append(_ms(record) / base)
    if partial and not ratios:
        form = "the same points on all SMs (share 1) as well"
        raise InputError("sm_share_frac", partial[0].sm_share_frac, form)
    return tuple(
        ShareSlowdown(
            sm_share_frac=share,
            phase=phase,
            num_requests=requests,
            slowdown=float(np.median(found)),
            least=min(found),
            most=max(found),
            num_points=len(found),
        )
        for (share, phase, requests), found in sorted(
            ratios.items(),
            key=lambda item: (-item[0][0], item[0][1] != "prefill", item[0][2]),
        )
    )


def refuse_shares(records: Sequence[StepRecord]) -> None:
    """Refuse to fit steps on a share of the SMs together with others.

    Raises
    ------
    InputError
        Naming the first share below 1.
    """
    for record in records:
        if record.sm_share_frac < 1.0:
            form = "1: steps on a share of the SMs are not fitted with the others"
            raise InputError("sm_share_frac", record.sm_share_frac, form)


def _case(record: StepRecord) -> Case:
    return record.part, record.dtype, record.point


def _ms(record: StepRecord) -> float:
    assert record.step is not None
    return record.step.ms
