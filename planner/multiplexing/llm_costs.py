"""What an LLM costs on a mesh: step times by batch and SM share, and memory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from clusters.cluster import Cluster
from clusters.fields import spec
from clusters.gpu import GpuType
from clusters.links import GroupLinks
from models.latency.contention import SmSharing, StepDemand
from models.latency.library import LatencyChoice, LatencyLibrary, LatencyRequest
from models.latency.request import LatencyUnavailableError
from models.latency.step_table import FloatArray
from models.llm import LlmSpec
from models.memory import memory_of
from models.parallelism import Parallelism
from planner.deployment import ReplicaShape
from planner.multiplexing.llm_steps import LlmSteps
from planner.multiplexing.measured_sharing import MeasuredShare, fitted, shares_of
from planner.multiplexing.meshes import MeshKind, MeshSupply
from planner.multiplexing.problem import LlmDemand, SharedProblem
from planner.placement import place
from planner.simulator.system import Phase

_KNOTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)
"""Batches that are worked out; steps are nearly linear in between."""


@dataclass(frozen=True, kw_only=True)
class LlmCosts:
    """Costs of one LLM on one kind of mesh; batch 0 stands for 1, not always there."""

    demand: LlmDemand = spec("The LLM and its traffic.")
    fixed_bytes: float = spec("Weights and activations on a GPU.", unit="bytes", ge=0)
    process_bytes: float = spec(
        "What each of its processes keeps on a GPU.", unit="bytes", ge=0
    )
    budget_bytes: float = spec("Memory of a GPU for all LLMs.", unit="bytes", gt=0)
    kv_bytes_per_token: float = spec("On a GPU.", unit="bytes/token", gt=0)
    weights_bytes: float = spec("Weights on a GPU.", unit="bytes", gt=0)
    latency: LatencyChoice = spec("Where its step times come from.")
    prefill: Mapping[int, StepDemand] = spec(
        "Prefill steps of mean prompts, by how many are wanted in one step."
    )
    prompts: Mapping[int, int] = spec(
        "How many there are, within the token budget.", unit="requests"
    )
    prefill_ms: Mapping[tuple[int, float], float] = spec(
        "Prefill step alone by number of prompts and share.", unit="ms"
    )
    batches: tuple[int, ...] = spec("Decode batches worked out.", unit="requests")
    decodes: tuple[StepDemand, ...] = spec("Decode steps of them, mid-answer.")
    decode_ms: Mapping[float, FloatArray] = spec(
        "Decode step alone by share, each of shape (max_batch + 1,).", unit="ms"
    )
    memory_ms: FloatArray = spec(
        "Least memory time of a decode step, shape (max_batch + 1,).", unit="ms"
    )
    arithmetic_ms: FloatArray = spec(
        "Least arithmetic time of it, shape (max_batch + 1,).", unit="ms"
    )

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of the SMs that it is worked out for."""
        return tuple(self.decode_ms)


class CostBook:
    """Costs of all LLMs of a problem on all kinds of mesh, each worked out once."""

    def __init__(
        self,
        problem: SharedProblem,
        library: LatencyLibrary,
        *,
        sharing: SmSharing,
        shares: Sequence[float],
        prompts: Sequence[int] = (1,),
        headroom: Mapping[str, float] | None = None,
    ) -> None:
        more = headroom or {}
        self.demands = tuple(
            demand.busier(more.get(demand.name, 1.0)) for demand in problem.demands
        )
        self._problem, self._library = problem, library
        self._published, self._shares = sharing, tuple(shares)
        self._sharing: dict[str, SmSharing] = {}
        self._prompts = tuple(prompts)
        self._known: dict[tuple[int, MeshKind], LlmCosts | str] = {}
        self._steps: dict[tuple[int, MeshKind], LlmSteps] = {}

    @property
    def problem(self) -> SharedProblem:
        """The problem whose LLMs these are."""
        return self._problem

    @property
    def library(self) -> LatencyLibrary:
        """Where step latencies come from."""
        return self._library

    @property
    def cluster(self) -> Cluster:
        """The hosts."""
        return self._problem.cluster

    def sharing_on(self, gpu_type: str) -> SmSharing:
        """How steps share GPUs of a type: as measured there, if a profile says it."""
        if gpu_type not in self._sharing:
            self._sharing[gpu_type] = self._measured_on(gpu_type) or self._published
        return self._sharing[gpu_type]

    def _measured_on(self, gpu_type: str) -> SmSharing | None:
        profile = self._problem.engine.latency_profile
        if profile is None or profile.gpu != gpu_type:
            return None
        measured: list[MeasuredShare] = []
        kinds = MeshSupply.of(self.cluster).kinds
        for model in profile.models:
            demand = next((d for d in self.demands if model.is_of(d.llm)), None)
            mesh = MeshKind(gpu_type=gpu_type, num_gpus=model.tp)
            if demand is None or not model.sm_shares or mesh not in kinds:
                continue
            steps, _ = self._steps_on(demand.llm, mesh, self._published)
            tokens = demand.context_tokens
            measured += shares_of(model, steps, context_tokens=tokens)
        if not measured:
            return None
        device = profile.environment.device_name
        return fitted(
            self._published, measured, source=f"SM shares measured on {device}"
        )

    def costs(self, llm: int, mesh: MeshKind) -> LlmCosts | None:
        """Costs of an LLM on a mesh, None when it cannot run there."""
        found = self._find(llm, mesh)
        return found if isinstance(found, LlmCosts) else None

    def why_not(self, llm: int, mesh: MeshKind) -> str | None:
        """Why an LLM cannot run on a mesh, None when it can."""
        found = self._find(llm, mesh)
        return found if isinstance(found, str) else None

    def steps(self, llm: int, mesh: MeshKind) -> LlmSteps | None:
        """Steps of an LLM on a mesh, None when it cannot run there."""
        self._find(llm, mesh)
        return self._steps.get((llm, mesh))

    def _find(self, llm: int, mesh: MeshKind) -> LlmCosts | str:
        key = (llm, mesh)
        if key not in self._known:
            self._known[key] = self._work_out(llm, mesh)
        return self._known[key]

    def _work_out(self, llm: int, mesh: MeshKind) -> LlmCosts | str:
        demand = self.demands[llm]
        parallelism = Parallelism(tp=mesh.num_gpus)
        gpu, _ = self._hardware(mesh)
        memory = memory_of(demand.llm, parallelism, gpu, self._problem.engine.memory)
        if memory.why_not:
            return memory.why_not
        sharing = self.sharing_on(mesh.gpu_type)
        try:
            steps, choice = self._steps_on(demand.llm, mesh, sharing)
        except LatencyUnavailableError as error:
            return str(error)
        if memory.max_kv_tokens < demand.longest_tokens:
            return f"no room for one request of {demand.longest_tokens:.0f} tokens"
        room = int(memory.max_kv_tokens // demand.context_tokens)
        most = min(self._problem.engine.limits.max_num_seqs, room)
        batches = (*(knot for knot in _KNOTS if knot < most), most)
        self._steps[llm, mesh] = steps
        decodes = tuple(
            steps.decode(batch, batch * demand.context_tokens) for batch in batches
        )

        def by_batch(values: Iterable[float]) -> FloatArray:
            return np.interp(np.arange(most + 1), batches, list(values))

        budget = self._problem.engine.limits.max_batch_tokens
        most_prompts = max(1, int(budget // demand.input_tokens))
        prompts = {num: min(num, most_prompts) for num in self._prompts}
        prompt = round(demand.input_tokens)
        prefill = {num: steps.prefill([prompt] * prompts[num]) for num in self._prompts}
        alone_ms = sharing.alone_ms
        return LlmCosts(
            demand=demand,
            fixed_bytes=memory.weights_bytes + memory.activation_bytes,
            process_bytes=memory.reserve_bytes,
            budget_bytes=memory.budget_bytes,
            kv_bytes_per_token=memory.kv_bytes_per_token,
            weights_bytes=memory.weights_bytes,
            latency=choice,
            prefill=prefill,
            prompts=prompts,
            prefill_ms={
                (num, share): alone_ms(prefill[num], share)
                for num, share in product(self._prompts, self._shares)
            },
            batches=batches,
            decodes=decodes,
            decode_ms={
                share: by_batch(alone_ms(step, share) for step in decodes)
                for share in self._shares
            },
            memory_ms=by_batch(step.least_memory_ms for step in decodes),
            arithmetic_ms=by_batch(step.least_arithmetic_ms for step in decodes),
        )

    def _steps_on(
        self, llm: LlmSpec, mesh: MeshKind, sharing: SmSharing
    ) -> tuple[LlmSteps, LatencyChoice]:
        """Steps of a model on a mesh, and where their times come from.

        Raises
        ------
        LatencyUnavailableError
            When no source covers them.
        """
        parallelism = Parallelism(tp=mesh.num_gpus)
        gpu, links = self._hardware(mesh)
        request = LatencyRequest(llm=llm, parallelism=parallelism, gpu=gpu, links=links)
        choice = self._library.choose(request)
        (table,) = choice.stages
        steps = LlmSteps(
            llm=llm,
            parallelism=parallelism,
            gpu=gpu,
            links=links,
            table=table,
            sharing=sharing,
        )
        return steps, choice

    def _hardware(self, mesh: MeshKind) -> tuple[GpuType, GroupLinks]:
        """GPU and links of such a mesh, placed on the empty cluster."""
        shape = ReplicaShape(
            phase=Phase.AGGREGATED,
            gpu_type=mesh.gpu_type,
            parallelism=Parallelism(tp=mesh.num_gpus),
        )
        placed = place(self._problem.cluster, [shape])
        assert placed is not None, "the supply has such a mesh"
        topology = self._problem.cluster.topology
        (stage_gpus,) = placed
        return topology.gpu(stage_gpus[0][0]).type, topology.group_links(stage_gpus)
