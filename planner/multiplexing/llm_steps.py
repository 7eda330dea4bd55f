"""Steps of one LLM on one mesh, as what they ask of its GPUs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from clusters.fields import spec
from clusters.gpu import Dtype, GpuType
from clusters.links import GroupLinks
from models.flops import StageWork, decode_work, prefill_work, stage_shapes
from models.latency.contention import SmSharing, StepDemand
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.parallelism import Parallelism
from models.shapes import StageShapes


@dataclass(frozen=True, kw_only=True)
class LlmSteps:
    """The steps of an LLM whose one stage lies on a mesh."""

    llm: LlmSpec = spec("The model.")
    parallelism: Parallelism = spec("How it is split; one stage.")
    gpu: GpuType = spec("Its GPUs.")
    links: GroupLinks = spec("Links among them.")
    table: StepTable = spec("How long its steps take on all SMs.")
    sharing: SmSharing = spec("How steps share a GPU.")
    _stage: StageShapes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        (stage,) = stage_shapes(self.llm, self.parallelism)
        object.__setattr__(self, "_stage", stage)

    def prefill(self, prompts: Sequence[int]) -> StepDemand:
        """A prefill step of prompts of that many tokens each."""
        whole_ms = self.table.prefill_step_ms(prompts)
        return self._of(prefill_work(self._stage, prompts), whole_ms)

    def decode(self, batch: int, kv_tokens: float) -> StepDemand:
        """A decode step of a batch that attends to `kv_tokens` in all."""
        whole_ms = self.table.decode_step_ms(batch, kv_tokens)
        return self._of(decode_work(self._stage, batch, kv_tokens), whole_ms)

    def _of(self, work: StageWork, whole_ms: float) -> StepDemand:
        tp = self.parallelism.tp
        ring = (self.links.tp[0], tp) if tp > 1 else None
        return self.sharing.demand(
            work, whole_ms, gpu=self.gpu, dtype=self._dtype, ring=ring
        )

    @property
    def _dtype(self) -> Dtype:
        """What most of the weights are multiplied in."""
        precision = self.llm.precision
        is_moe = any(group.is_moe for group in self._stage.groups)
        return (precision.experts if is_moe else precision.mlp).compute_dtype
