"""Admission: the refusal of requests on arrival, as a problem file asks for it."""

from dataclasses import dataclass

from clusters.fields import InputError, check_fields, spec
from planner.simulator.prefix_settings import AdmissionRule, EarlyRejection
from planner.slo import Slo
from planner.workload.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Refuse requests on arrival that are bound to miss their limits.

    Reference: Qin et al., "Mooncake", arXiv 2407.00079, section 7: early rejection by
    the decode load of the moment (`current`), or by the one predicted for the end of
    the request's prefill (`predicted`).
    """

    rule: AdmissionRule = spec(
        "When the decode load is taken.", default=AdmissionRule.PREDICTED
    )
    ttft_ms: float | None = spec(
        "Most expected time to the first token; None: the SLO's limit on TTFT.",
        unit="ms",
        gt=0,
        default=None,
    )
    tbt_ms: float | None = spec(
        "Most expected time between tokens; None: the SLO's limit on TPOT.",
        unit="ms",
        gt=0,
        default=None,
    )
    decode_ms: float | None = spec(
        "predicted: how long every decode is taken to last; None: the workload's mean "
        "answer at tbt_ms a token.",
        unit="ms",
        gt=0,
        default=None,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.rule is AdmissionRule.CURRENT and self.decode_ms is not None:
            raise InputError("decode_ms", self.decode_ms, "null with the rule current")

    def early_rejection(self, slo: Slo, workload: Workload) -> EarlyRejection:
        """The rule with the limits that it leaves to the service.

        Raises
        ------
        InputError
            Naming a limit that neither has.
        """
        limits = {}
        for key, given, of_slo in (
            ("ttft_ms", self.ttft_ms, slo.ttft_ms),
            ("tbt_ms", self.tbt_ms, slo.tpot_ms),
        ):
            limit = given if given is not None else of_slo
            if limit is None:
                raise InputError(key, None, "a limit, here or in the service's SLO")
            limits[key] = limit
        decode_ms = None
        if self.rule is AdmissionRule.PREDICTED:
            decode_ms = self.decode_ms
            if decode_ms is None:
                decode_ms = workload.mean_output_tokens * limits["tbt_ms"]
        return EarlyRejection(rule=self.rule, decode_ms=decode_ms, **limits)
