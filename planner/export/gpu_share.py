"""The part of its GPUs that an engine gets where several share them."""

from dataclasses import dataclass

from clusters.fields import check_fields, spec
from models.memory import memory_of
from models.parallelism import Parallelism
from planner.multiplexing.placed import PlacedUnit
from planner.multiplexing.shared_plan import SharedPlan
from planner.multiplexing.unit import UnitMember
from planner.problem import Service
from planner.simulator.system import Phase

_MOST_FRAC = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuShare:
    """What an engine may take of each of its GPUs."""

    sm_percentage: int = spec("SMs, under CUDA MPS, in percent.", unit="1", ge=1)
    memory_frac: float = spec("Of the memory.", unit="1", gt=0, le=1)
    num_kv_blocks: int = spec("Blocks of its KV cache.", unit="blocks", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(
        cls, plan: SharedPlan, placed: PlacedUnit, member: UnitMember, service: Service
    ) -> "GpuShare":
        """The share of one LLM of a unit.

        vLLM runs prefills and decodes of a model in one process, so an engine of whole
        requests gets the SMs of its decode and those of the unit's prefills.
        """
        unit, memory_settings = placed.unit, plan.problem.engine.memory
        share = 1.0
        if unit.cycle_ms is None and unit.phase is not Phase.PREFILL:
            share = member.decode_share_frac
            if unit.phase is Phase.AGGREGATED:
                share += unit.prefill_share_frac
        gpu = plan.problem.cluster.topology.gpu(placed.gpu_indices[0]).type
        parallelism = Parallelism(tp=unit.mesh.num_gpus)
        memory = memory_of(service.llm, parallelism, gpu, memory_settings)
        used = memory.weights_bytes + memory.activation_bytes + memory.reserve_bytes
        used += memory.kv_bytes_per_token * member.kv_quota_tokens
        return cls(
            sm_percentage=max(1, min(100, round(100 * share))),
            memory_frac=float(min(_MOST_FRAC, used / gpu.memory_bytes)),
            num_kv_blocks=max(
                1, member.kv_quota_tokens // memory_settings.block_tokens
            ),
        )
