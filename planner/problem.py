"""Problem: everything that decides a plan, as immutable data read from one file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from clusters.cluster import Cluster
from clusters.fields import InputError, check_fields, spec
from clusters.mapping import from_fields, from_mapping
from clusters.serde import read_mapping
from models.latency.profile import Profile
from models.llm import LlmSpec
from models.memory import MemorySettings
from planner.admission import Admission
from planner.engines import EnginePreset
from planner.kv_connectors import with_connector
from planner.objective import Goal, Objective
from planner.simulator.control import RouterSettings
from planner.simulator.prefix_settings import PrefixCache
from planner.simulator.system import Batching, BatchLimits, Routing
from planner.simulator.transfer_settings import KvTransfer
from planner.slo import Slo
from planner.workload.workload import Workload

API_VERSION = "phaseplan/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """An LLM to serve, its traffic and its latency objectives."""

    name: str = spec("Name of the service.", default="service")
    llm: LlmSpec = spec("The model (catalogue name, path of a config.json).")
    workload: Workload = spec("Its traffic.")
    slo: Slo = spec("Its latency objectives.", default_factory=Slo)
    prefix_cache: PrefixCache | None = spec(
        "Cache of past prompts on every replica that prefills.", default=None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """Which replicas are considered."""

    tp: tuple[int, ...] = spec(
        "Tensor parallelism degrees; empty: every divisor that fits a node.",
        unit="GPUs",
        default=(),
    )
    max_pp: int = spec("Most pipeline stages.", unit="stages", ge=1, default=4)
    attention_dp: tuple[int, ...] = spec(
        "Attention data parallelism degrees to try beside 1, for a mixture of experts; "
        "its experts then lie on all GPUs of a stage.",
        unit="GPUs",
        default=(),
    )
    cp: tuple[int, ...] = spec(
        "Context parallelism degrees to try beside 1, for prefill replicas.",
        unit="GPUs",
        default=(),
    )
    max_gpus: int | None = spec(
        "Most GPUs of the whole plan; None: the cluster.",
        unit="GPUs",
        ge=1,
        default=None,
    )
    available_gpus: Mapping[str, int] = spec(
        "GPUs of a type to be had at most, by type; 0: none; others: all of them.",
        unit="GPUs",
        default_factory=dict,
    )
    max_usd_per_hour: float | None = spec(
        "Budget: most $/h of the whole plan; None: no limit.",
        unit="usd/h",
        gt=0,
        default=None,
    )
    max_power_w: float | None = spec(
        "Most power of the whole plan, as board limits of its GPUs; None: no limit.",
        unit="W",
        gt=0,
        default=None,
    )
    max_replicas: int | None = spec(
        "Most replicas of each phase; None: no limit.",
        unit="replicas",
        ge=1,
        default=None,
    )
    gpu_types: tuple[str, ...] = spec("GPU types to use; empty: all.", default=())
    policies: tuple[Batching, ...] = spec(
        "Batching policies to try beside the engine's own limits where prompts are "
        "served, chunked ones with token budgets up to the engine's; empty: chunked "
        "beside prefill_first, and other budgets of an engine that cuts prompts.",
        default=(),
    )
    is_batching_searched: bool = spec(
        "Look for the batching policy and token budget that serve each replica best; "
        "false: the engine's own limits everywhere.",
        default=True,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        for key in ("tp", "attention_dp", "cp"):
            for index, degree in enumerate(getattr(self, key)):
                if degree < 1:
                    raise InputError(f"{key}[{index}]", degree, "a number >= 1")
        for name, number in self.available_gpus.items():
            if number < 0:
                raise InputError(f"available_gpus.{name}", number, "a number >= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Settings of the serving engine that plans assume."""

    memory: MemorySettings = spec("Memory settings.", default_factory=MemorySettings)
    limits: BatchLimits = spec("Batch limits.", default_factory=BatchLimits)
    routing: Routing = spec("Request routing.", default=Routing.SHORTEST_QUEUE)
    router: RouterSettings = spec(
        "What the routing policy goes by.", default_factory=RouterSettings
    )
    kv_link_efficiency_frac: float = spec(
        "Share of a link's rate that KV transfers reach; a connector of kv_transfer "
        "sets it (nixl-tcp: 0.02).",
        unit="1",
        gt=0,
        le=1,
        default=0.8,
    )
    kv_setup_ms: float = spec(
        "Fixed time of a KV transfer beside the links' own latency.",
        unit="ms",
        ge=0,
        default=1.0,
    )
    kv_transfer: KvTransfer = spec(
        "When KV caches are sent, and what their blocks cost.",
        default_factory=KvTransfer,
    )
    admission: Admission | None = spec(
        "Refusal of requests on arrival; None: every request is let in.", default=None
    )
    latency_profile: Profile | None = spec(
        "Profile of measured latencies (its file), which come before every source.",
        default=None,
    )
    latency_sources: tuple[str, ...] = spec(
        "Latency sources by name, best first; empty: the library's own order.",
        default=(),
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def from_file_form(cls, data: object, *, file: str | None = None) -> Self:
        """All settings, or ``base:`` an engine and what differs from its defaults.

        A connector of `kv_transfer` gives the rate, set-up and block cost that are not
        given beside it.
        """
        if not isinstance(data, Mapping):
            return from_fields(cls, data, file=file)
        if "base" not in data:
            return from_fields(cls, with_connector(data), file=file)
        try:
            preset = EnginePreset.load(str(data["base"]))
        except InputError as error:
            raise InputError("base", error.value, error.expected) from None
        settings: dict[str, Any] = preset.settings()
        for key, given in data.items():
            both = isinstance(given, Mapping) and isinstance(settings.get(key), dict)
            settings[key] = {**settings[key], **given} if both else given
        del settings["base"]
        return from_fields(cls, with_connector(settings), file=file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A cluster, a service, and what a plan is to be best at."""

    api_version: str = spec("Format of the file.", default=API_VERSION)
    cluster: Cluster = spec("The hardware (name of an example, path, or nodes).")
    services: tuple[Service, ...] = spec("What is to be served.")
    objective: Objective = spec("The goal.", default_factory=Objective)
    engine: EngineSettings = spec("Engine settings.", default_factory=EngineSettings)
    search: SearchSpace = spec("Search space.", default_factory=SearchSpace)

    def __post_init__(self) -> None:
        if self.api_version != API_VERSION:
            raise InputError("api_version", self.api_version, f"'{API_VERSION}'")
        if len(self.services) != 1:
            raise InputError(
                "services", f"{len(self.services)} services", "exactly one service"
            )
        rate = self.service.workload.rate_rps
        if self.objective.needs_rate and rate is None:
            raise InputError(
                "services[0].workload.rate_rps",
                None,
                f"a rate to serve, which the goal {self.objective.goal} needs",
            )
        if self.engine.admission is not None:
            try:
                service = self.service
                self.engine.admission.early_rejection(service.slo, service.workload)
            except InputError as error:
                raise error.within("engine.admission") from None
        self._check_gpu_types()
        if self.objective.needs_prices:
            self._check_prices("objective.goal", str(Goal.MIN_COST))
        if self.search.max_usd_per_hour is not None:
            self._check_prices("search.max_usd_per_hour", self.search.max_usd_per_hour)
        if self.objective.needs_power:
            self._check_power("objective.goal", str(Goal.MIN_POWER))
        if self.search.max_power_w is not None:
            self._check_power("search.max_power_w", self.search.max_power_w)

    def _check_gpu_types(self) -> None:
        known = {gpu.name for gpu in self.cluster.gpu_types()}
        named = [(f"gpu_types[{i}]", n) for i, n in enumerate(self.search.gpu_types)]
        named += [(f"available_gpus.{n}", n) for n in self.search.available_gpus]
        for key, name in named:
            if name not in known:
                form = f"a GPU type of the cluster ({', '.join(sorted(known))})"
                raise InputError(f"search.{key}", name, form)
        if not self.usable_gpu_types:
            left = dict(self.search.available_gpus)
            form = "at least one GPU of a type that the plan may use"
            raise InputError("search.available_gpus", left, form)

    def _check_prices(self, key: str, value: object) -> None:
        """Refuse what asks for prices where one is not known."""
        for index, node in enumerate(self.cluster.nodes):
            is_used = any(gpu.name in self.usable_gpu_types for gpu in node.slots)
            if is_used and node.price_usd_per_hour is None:
                form = (
                    f"the price of every node; {node.name!r} ({node.type.name}) has "
                    f"none: set usd_per_hour of cluster.nodes[{index}], or use the "
                    f"goal {Goal.MAX_GOODPUT}"
                )
                raise InputError(key, value, form)

    def _check_power(self, key: str, value: object) -> None:
        """Refuse what asks for power where a board limit is not known."""
        for gpu in self.cluster.gpu_types():
            if gpu.name in self.usable_gpu_types and gpu.tdp_w is None:
                form = (
                    f"the board power limit of every GPU; {gpu.name} has none: set its "
                    f"tdp_w, or use the goal {Goal.MAX_GOODPUT}"
                )
                raise InputError(key, value, form)

    @property
    def usable_gpu_types(self) -> tuple[str, ...]:
        """GPU types that a plan may use, in the order of the cluster."""
        wanted, available = self.search.gpu_types, self.search.available_gpus
        return tuple(
            gpu.name
            for gpu in self.cluster.gpu_types()
            if (not wanted or gpu.name in wanted) and available.get(gpu.name, 1) > 0
        )

    @property
    def service(self) -> Service:
        """The service."""
        return self.services[0]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a problem file (YAML or JSON); paths in it start from its folder."""
        return from_mapping(cls, read_mapping(path), file=str(path))
