"""SM shares measured on the user's GPUs: the law of shares fitted to them.

A profile may hold how much longer steps take on a share of the SMs
(`phaseplan profile run`, section ``sm_share``). The law of `models.latency.contention`
keeps its form; its four coefficients are fitted to the slowdowns by least squares on
their logarithms, from the published ones on. The profile keeps medians over several
points of a batch, so decode steps are taken at the mean context of the traffic,
prefills at `PROMPT_TOKENS`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clusters.fields import spec
from models.latency.contention import SmSharing
from models.latency.profile import ProfiledModel
from models.latency.step_table import FloatArray
from planner.multiplexing.llm_steps import LlmSteps

PROMPT_TOKENS = 2048
"""Prompt of the prefill steps: the middle one of a campaign's three."""
_COEFFICIENTS = {
    "memory_frac": (0.05, 1.0),
    "arithmetic_frac": (0.05, 1.0),
    "memory_scale": (0.02, 50.0),
    "arithmetic_scale": (0.02, 50.0),
}
"""Each with the range that it is looked for in."""


@dataclass(frozen=True, kw_only=True)
class MeasuredShare:
    """One slowdown, with its step."""

    steps: LlmSteps = spec("Steps of its model.")
    is_decode: bool = spec("Whether it is a decode step.")
    num_requests: int = spec("Requests of it.", unit="requests", ge=1)
    tokens: float = spec("Prompt or context of each.", unit="tokens", gt=0)
    sm_share_frac: float = spec("Share of the SMs.", unit="1", gt=0, lt=1)
    slowdown: float = spec("Its time over that on all SMs.", unit="1", gt=0)

    def slowdown_by(self, law: SmSharing) -> float:
        """What a law says in place of the measurement."""
        steps, num = replace(self.steps, sharing=law), self.num_requests
        if self.is_decode:
            step = steps.decode(num, num * self.tokens)
        else:
            step = steps.prefill([round(self.tokens)] * num)
        return law.alone_ms(step, self.sm_share_frac) / step.whole_ms


def shares_of(
    model: ProfiledModel, steps: LlmSteps, *, context_tokens: float
) -> Iterator[MeasuredShare]:
    """The slowdowns of a profiled model, with their steps."""
    for each in model.sm_shares:
        is_decode = each.phase == "decode"
        yield MeasuredShare(
            steps=steps,
            is_decode=is_decode,
            num_requests=each.num_requests,
            tokens=context_tokens if is_decode else PROMPT_TOKENS,
            sm_share_frac=each.sm_share_frac,
            slowdown=each.slowdown,
        )


def fitted(
    start: SmSharing, measured: Sequence[MeasuredShare], *, source: str
) -> SmSharing:
    """The law with the coefficients that come nearest to measured slowdowns.

    Parameters
    ----------
    start
        Where the fit begins; few slowdowns leave what they do not tell as it is there.
    measured
        At least one slowdown.
    source
        Where they were measured, for reports.
    """
    from scipy.optimize import least_squares  # slow to import

    wanted = np.log([each.slowdown for each in measured])

    def misses(logs: FloatArray) -> FloatArray:
        return _log_slowdowns(_law(start, logs), measured) - wanted

    low, high = np.log(list(_COEFFICIENTS.values())).T
    # Where host time hides what the GPU does, no coefficient matters at first: so the
    # fit begins once more from steps that are nothing but GPU work.
    starts = (start, replace(start, memory_frac=0.1, arithmetic_frac=0.1))
    fits = [
        least_squares(
            misses,
            np.clip(np.log([getattr(law, k) for k in _COEFFICIENTS]), low, high),
            bounds=(low, high),
        )
        for law in starts
    ]
    law = _law(start, min(fits, key=lambda fit: fit.cost).x)
    errors = np.abs(np.expm1(_log_slowdowns(law, measured) - wanted))
    is_decode = np.array([each.is_decode for each in measured])
    return replace(
        law,
        source=source,
        date="",
        decode_error_frac=_median(errors[is_decode]),
        prefill_error_frac=_median(errors[~is_decode]),
    )


def _law(start: SmSharing, logs: FloatArray) -> SmSharing:
    values = dict(zip(_COEFFICIENTS, np.exp(logs).tolist(), strict=True))
    for name, (_, most) in _COEFFICIENTS.items():
        values[name] = min(values[name], most)  # rounding of the logarithm
    return replace(start, **values)


def _log_slowdowns(law: SmSharing, measured: Sequence[MeasuredShare]) -> FloatArray:
    slowdowns: FloatArray = np.log([each.slowdown_by(law) for each in measured])
    return slowdowns


def _median(errors: FloatArray) -> float | None:
    return float(np.median(errors)) if len(errors) else None
