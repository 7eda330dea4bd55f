"""What is to be placed: several services on one cluster, and what is best."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import numpy as np

from clusters.cluster import Cluster
from clusters.fields import InputError, check_fields, spec
from clusters.mapping import from_mapping
from clusters.serde import read_mapping
from models.llm import LlmSpec
from planner.multiplexing.popularity_file import Popularity, with_rates
from planner.multiplexing.rate_windows import busy_over_time
from planner.multiplexing.space import UnitSpace
from planner.problem import API_VERSION, EngineSettings, Service
from planner.slo import Slo

_SAMPLE_REQUESTS = 2000
"""Requests from which the length of a long answer is taken."""


class SharedGoal(StrEnum):
    """What a placement of several LLMs is to be best at."""

    SERVED_LOAD = "served_load"
    """Most requests per second within the SLOs, over all services."""
    RATE_WEIGHTED = "rate_weighted"
    """Mean of the rates served, weighted by the rates asked for (as published)."""
    MIN_COST = "min_cost"
    """Least $/h that serves every service's rate within its SLO."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedObjective:
    """The goal of a placement of several services."""

    goal: SharedGoal = spec("What is best.", default=SharedGoal.SERVED_LOAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedProblem:
    """A cluster and the services that share it."""

    api_version: str = spec("Format of the file.", default=API_VERSION)
    cluster: Cluster = spec("The hardware (name of an example, path, or nodes).")
    services: tuple[Service, ...] = spec("What is to be served.")
    objective: SharedObjective = spec("The goal.", default_factory=SharedObjective)
    engine: EngineSettings = spec("Engine settings.", default_factory=EngineSettings)
    search: UnitSpace = spec("Which units are considered.", default_factory=UnitSpace)
    popularity: Popularity | None = spec(
        "Rates of all services in a few numbers; reading a file gives them to the "
        "services.",
        default=None,
    )

    def __post_init__(self) -> None:
        if self.api_version != API_VERSION:
            raise InputError("api_version", self.api_version, f"'{API_VERSION}'")
        if self.popularity is not None:
            raise InputError("popularity", "...", "null beside services with rates")
        if not self.services:
            raise InputError("services", self.services, "at least one service")
        if self.engine.admission is not None:
            form = "null: requests of several LLMs are not refused on arrival"
            raise InputError("engine.admission", "given", form)
        seen: dict[str, int] = {}
        for index, service in enumerate(self.services):
            where = f"services[{index}]"
            if service.name in seen:
                form = f"a name that services[{seen[service.name]}] does not have"
                raise InputError(f"{where}.name", service.name, form)
            seen[service.name] = index
            rate = service.workload.mean_rate_rps
            if rate is None or rate <= 0:
                form = "a rate > 0: an LLM without traffic needs no place"
                raise InputError(f"{where}.workload.rate_rps", rate, form)
            if service.prefix_cache is not None:
                form = "null: units of several LLMs keep no past prompts"
                raise InputError(f"{where}.prefix_cache", "...", form)

    @property
    def goal(self) -> SharedGoal:
        """What is best."""
        return self.objective.goal

    @property
    def demands(self) -> tuple["LlmDemand", ...]:
        """The services as the placement sees them."""
        workloads = [service.workload for service in self.services]
        periods = busy_over_time(workloads, self.search.rates)
        return tuple(
            LlmDemand.of(service, busy=busy)
            for service, busy in zip(self.services, periods, strict=True)
        )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a problem file (YAML or JSON); paths in it start from its folder."""
        return cls.of_mapping(read_mapping(path), file=str(path))

    @classmethod
    def of_mapping(cls, data: Mapping[str, Any], *, file: str | None = None) -> Self:
        """A problem from the mapping of its file."""
        try:
            expanded = with_rates(data)
        except InputError as error:
            raise (error.in_file(file) if file else error) from None
        return from_mapping(cls, expanded, file=file)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmDemand:
    """An LLM with its mean traffic."""

    name: str = spec("Name of the service.")
    llm: LlmSpec = spec("The model.")
    rate_rps: float = spec("Mean rate.", unit="requests/s", gt=0)
    input_tokens: float = spec("Mean prompt.", unit="tokens", gt=0)
    output_tokens: float = spec("Mean answer.", unit="tokens", ge=1)
    slo: Slo = spec("Its latency objectives.")
    long_output_tokens: float | None = spec(
        "Answer at the quantile of the SLO, for an end-to-end limit; None: the mean.",
        unit="tokens",
        ge=1,
        default=None,
    )
    busy: tuple[float, ...] = spec(
        "Its rate in the periods of a day, over the mean one.", unit="1", default=(1.0,)
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, service: Service, *, busy: tuple[float, ...] = (1.0,)) -> Self:
        """The demand of a service, with its rates over a day."""
        workload, slo = service.workload, service.slo
        long_tokens: float | None = None
        if slo.e2e_ms is not None:
            drawn = workload.draw(_SAMPLE_REQUESTS, seed=0).output_tokens
            long_tokens = float(np.quantile(drawn, slo.attainment_frac))
        return cls(
            name=service.name,
            llm=service.llm,
            rate_rps=workload.mean_rate_rps or 0.0,
            input_tokens=workload.mean_input_tokens,
            output_tokens=workload.mean_output_tokens,
            slo=slo,
            long_output_tokens=long_tokens,
            busy=busy,
        )

    def busier(self, factor: float) -> Self:
        """The same demand with its rates over a day so many times as high."""
        return replace(self, busy=tuple(busy * factor for busy in self.busy))

    @property
    def long_steps(self) -> float:
        """Decode steps of a long answer, which an end-to-end limit is held to."""
        return (self.long_output_tokens or self.output_tokens) - 1.0

    @property
    def ttft_limit_ms(self) -> float | None:
        """The most that a first token may take; None: any time."""
        limits = [each for each in (self.slo.ttft_ms, self.slo.e2e_ms) if each]
        return min(limits, default=None)

    @property
    def tpot_limit_ms(self) -> float | None:
        """The most that a decode step may take; None: any time."""
        limits = [self.slo.tpot_ms] if self.slo.tpot_ms else []
        if self.slo.e2e_ms is not None and self.long_steps > 0:
            limits.append(self.slo.e2e_ms / self.long_steps)
        return min(limits, default=None)

    @property
    def decode_steps(self) -> float:
        """Decode steps of a request: every token of the answer but the first."""
        return self.output_tokens - 1.0

    @property
    def context_tokens(self) -> float:
        """Tokens a request attends to in the middle of its decode."""
        return self.input_tokens + self.output_tokens / 2.0

    @property
    def longest_tokens(self) -> float:
        """Tokens a request keeps at its end."""
        return self.input_tokens + self.output_tokens
