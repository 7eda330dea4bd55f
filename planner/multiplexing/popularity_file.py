"""How the traffic of several services is given in a few numbers, in a problem file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import from_mapping, to_mapping
from planner.workload.popularity import power_law_rates, staggered_days


@dataclass(frozen=True, slots=True, kw_only=True)
class Popularity:
    """Rates that fall with the place in the file by a power law, and when they peak."""

    alpha: float = spec(
        "Exponent: rate of the n-th service is that of the first / n ** alpha.",
        unit="1",
        ge=0,
    )
    total_rps: float = spec("Of all services.", unit="requests/s", gt=0)
    peak_to_mean: float | None = spec(
        "Rate of each service at its peak of a day; null: the same all day.",
        unit="1",
        ge=1,
        default=None,
    )
    spread_frac: float = spec(
        "Part of a day over which the peaks are spread: 0: all at once (correlated), "
        "1: evenly over the day (of two services: opposite).",
        unit="1",
        ge=0,
        le=1,
        default=0.0,
    )

    def __post_init__(self) -> None:
        check_fields(self)


def with_rates(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A problem's mapping whose services have the rates that its popularity says.

    Raises
    ------
    InputError
        For the popularity, or a service that has a rate (or a day) of its own.
    """
    given, services = data.get("popularity"), data.get("services")
    if given is None or not isinstance(services, list):
        return data
    popularity = from_mapping(Popularity, given, where="popularity")
    shape = power_law_rates(len(services), alpha=popularity.alpha, busiest_rps=1.0)
    rates = [popularity.total_rps * rate / sum(shape) for rate in shape]
    days: list[Any] = [None] * len(services)
    if popularity.peak_to_mean is not None:
        try:
            found = staggered_days(
                len(services),
                peak_to_mean=popularity.peak_to_mean,
                spread_frac=popularity.spread_frac,
            )
        except InputError as error:
            raise error.within("popularity") from None
        days = [to_mapping(day) for day in found]
    made = []
    for index, (service, rate, day) in enumerate(
        zip(services, rates, days, strict=True)
    ):
        workload = service.get("workload") if isinstance(service, Mapping) else None
        if isinstance(workload, str):
            workload = {"trace": workload}
        if not isinstance(workload, Mapping):
            return data  # what is wrong is told by whoever reads the services
        added = {"rate_rps": rate} | ({} if day is None else {"arrivals": day})
        for key in added:
            if workload.get(key) is not None:
                where = f"services[{index}].workload.{key}"
                raise InputError(where, workload[key], "nothing beside popularity")
        made.append({**service, "workload": {**workload, **added}})
    return {**data, "services": made, "popularity": None}
