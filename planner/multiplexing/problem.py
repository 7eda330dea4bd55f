"""What is to be placed: several services on one cluster, and what is best."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from clusters.cluster import Cluster
from clusters.fields import InputError, check_fields, spec
from clusters.mapping import from_mapping
from clusters.serde import read_mapping
from models.llm import LlmSpec
from planner.multiplexing.space import UnitSpace
from planner.problem import API_VERSION, EngineSettings, Service
from planner.slo import Slo


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

    def __post_init__(self) -> None:
        if self.api_version != API_VERSION:
            raise InputError("api_version", self.api_version, f"'{API_VERSION}'")
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
            if service.slo.e2e_ms is not None:
                form = "null: several LLMs are placed by TTFT and TPOT"
                raise InputError(f"{where}.slo.e2e_ms", service.slo.e2e_ms, form)

    @property
    def goal(self) -> SharedGoal:
        """What is best."""
        return self.objective.goal

    @property
    def demands(self) -> tuple["LlmDemand", ...]:
        """The services as the placement sees them."""
        return tuple(LlmDemand.of(service) for service in self.services)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a problem file (YAML or JSON); paths in it start from its folder."""
        return from_mapping(cls, read_mapping(path), file=str(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmDemand:
    """An LLM with its mean traffic."""

    name: str = spec("Name of the service.")
    llm: LlmSpec = spec("The model.")
    rate_rps: float = spec("Mean rate.", unit="requests/s", gt=0)
    input_tokens: float = spec("Mean prompt.", unit="tokens", gt=0)
    output_tokens: float = spec("Mean answer.", unit="tokens", ge=1)
    slo: Slo = spec("Its latency objectives.")

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, service: Service) -> Self:
        """The demand of a service."""
        workload = service.workload
        return cls(
            name=service.name,
            llm=service.llm,
            rate_rps=workload.mean_rate_rps or 0.0,
            input_tokens=workload.mean_input_tokens,
            output_tokens=workload.mean_output_tokens,
            slo=service.slo,
        )

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
