"""What an LLM costs on a mesh: step times by batch and SM share, and memory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from clusters.fields import spec
from clusters.gpu import Dtype, GpuType
from clusters.links import GroupLinks
from models.flops import StageWork, decode_work, prefill_work, stage_shapes
from models.latency.contention import SmSharing, StepDemand
from models.latency.library import LatencyLibrary, LatencyRequest
from models.latency.request import LatencyUnavailableError
from models.latency.step_table import FloatArray, StepTable
from models.memory import memory_of
from models.parallelism import Parallelism
from planner.deployment import ReplicaShape
from planner.multiplexing.meshes import MeshKind
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
    ) -> None:
        self.demands = problem.demands
        self._problem, self._library = problem, library
        self._sharing, self._shares = sharing, tuple(shares)
        self._prompts = tuple(prompts)
        self._known: dict[tuple[int, MeshKind], LlmCosts | str] = {}

    def costs(self, llm: int, mesh: MeshKind) -> LlmCosts | None:
        """Costs of an LLM on a mesh, None when it cannot run there."""
        found = self._find(llm, mesh)
        return found if isinstance(found, LlmCosts) else None

    def why_not(self, llm: int, mesh: MeshKind) -> str | None:
        """Why an LLM cannot run on a mesh, None when it can."""
        found = self._find(llm, mesh)
        return found if isinstance(found, str) else None

    def _find(self, llm: int, mesh: MeshKind) -> LlmCosts | str:
        key = (llm, mesh)
        if key not in self._known:
            self._known[key] = self._work_out(self.demands[llm], mesh)
        return self._known[key]

    def _work_out(self, demand: LlmDemand, mesh: MeshKind) -> LlmCosts | str:
        parallelism = Parallelism(tp=mesh.num_gpus)
        gpu, links = self._hardware(mesh)
        memory = memory_of(demand.llm, parallelism, gpu, self._problem.engine.memory)
        if memory.why_not:
            return memory.why_not
        request = LatencyRequest(
            llm=demand.llm, parallelism=parallelism, gpu=gpu, links=links
        )
        try:
            (table,) = self._library.choose(request).stages
        except LatencyUnavailableError as error:
            return str(error)
        steps = _Steps(demand, parallelism, gpu, links, self._sharing)
        if memory.max_kv_tokens < demand.longest_tokens:
            return f"no room for one request of {demand.longest_tokens:.0f} tokens"
        room = int(memory.max_kv_tokens // demand.context_tokens)
        most = min(self._problem.engine.limits.max_num_seqs, room)
        batches = (*(knot for knot in _KNOTS if knot < most), most)
        decodes = tuple(steps.decode(table, batch) for batch in batches)

        def by_batch(values: Iterable[float]) -> FloatArray:
            return np.interp(np.arange(most + 1), batches, list(values))

        budget = self._problem.engine.limits.max_batch_tokens
        most_prompts = max(1, int(budget // demand.input_tokens))
        prompts = {num: min(num, most_prompts) for num in self._prompts}
        prefill = {num: steps.prefill(table, prompts[num]) for num in self._prompts}
        alone_ms = self._sharing.alone_ms
        return LlmCosts(
            demand=demand,
            fixed_bytes=memory.weights_bytes + memory.activation_bytes,
            process_bytes=memory.reserve_bytes,
            budget_bytes=memory.budget_bytes,
            kv_bytes_per_token=memory.kv_bytes_per_token,
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


class _Steps:
    """Steps of one LLM on one mesh as demands on its GPUs."""

    def __init__(
        self,
        demand: LlmDemand,
        parallelism: Parallelism,
        gpu: GpuType,
        links: GroupLinks,
        sharing: SmSharing,
    ) -> None:
        self._demand, self._gpu, self._sharing = demand, gpu, sharing
        (self._stage,) = stage_shapes(demand.llm, parallelism)
        self._ring = (links.tp[0], parallelism.tp) if parallelism.tp > 1 else None

    def prefill(self, table: StepTable, num_prompts: int) -> StepDemand:
        """Mean prompts together."""
        tokens = [round(self._demand.input_tokens)] * num_prompts
        return self._of(
            prefill_work(self._stage, tokens), table.prefill_step_ms(tokens)
        )

    def decode(self, table: StepTable, batch: int) -> StepDemand:
        """A batch in the middle of its answers."""
        attended = batch * self._demand.context_tokens
        return self._of(
            decode_work(self._stage, batch, attended),
            table.decode_step_ms(batch, attended),
        )

    def _of(self, work: StageWork, whole_ms: float) -> StepDemand:
        return self._sharing.demand(
            work, whole_ms, gpu=self._gpu, dtype=self._dtype, ring=self._ring
        )

    @property
    def _dtype(self) -> Dtype:
        """What most of the weights are multiplied in."""
        precision = self._demand.llm.precision
        is_moe = any(group.is_moe for group in self._stage.groups)
        return (precision.experts if is_moe else precision.mlp).compute_dtype
