"""Parallelism: how one replica of an LLM is spread over GPUs, and what divides what."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import fields_to_mapping
from models.llm import LlmSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """Degrees of parallelism of one replica.

    Tensor (`tp`), attention-data (`attention_dp`) and context (`cp`) parallelism
    multiply within a pipeline stage: `tp` GPUs share every matrix but the routed
    experts', and such groups (ranks) repeat it, for other requests (`attention_dp`) or
    for other parts of the same prompts (`cp`). The routed experts are spread over all
    GPUs of a stage, `ep` ways by expert and the rest of the way by width, so `ep` adds
    no GPUs of its own.

    Stages may be unlike: hold unlike numbers of layers (`stage_layers`), and be split
    over unlike numbers of GPUs (`stage_tp`, of which `tp` is then the largest).
    """

    tp: int = spec("Tensor parallelism.", unit="GPUs", ge=1, default=1)
    pp: int = spec("Pipeline stages.", unit="stages", ge=1, default=1)
    ep: int = spec("Expert parallelism.", unit="GPUs", ge=1, default=1)
    attention_dp: int = spec(
        "Data parallelism of attention only.", unit="GPUs", ge=1, default=1
    )
    cp: int = spec("Context (ring) parallelism.", unit="GPUs", ge=1, default=1)
    stage_layers: tuple[int, ...] | None = spec(
        "Layers of each stage; None: as even as possible.",
        unit="layers",
        default=None,
    )
    stage_tp: tuple[int, ...] | None = spec(
        "Tensor parallelism of each stage, where stages differ; None: `tp` in all.",
        unit="GPUs",
        default=None,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        for key in ("stage_layers", "stage_tp"):
            given = getattr(self, key)
            if given is not None and (len(given) != self.pp or min(given) < 1):
                raise InputError(
                    key, given, f"{self.pp} numbers >= 1, one a pipeline stage"
                )
        if self.stage_tp is None:
            return
        if self.tp != max(self.stage_tp):
            raise InputError("tp", self.tp, f"the largest of stage_tp {self.stage_tp}")
        if max(self.ep, self.num_ranks) > 1:
            raise InputError(
                "stage_tp", self.stage_tp, "None with EP or several ranks a stage"
            )

    def to_file_form(self) -> Mapping[str, Any]:
        """All fields, `stage_tp` only where stages differ."""
        fields: dict[str, Any] = fields_to_mapping(self)
        if self.stage_tp is None:
            del fields["stage_tp"]
        return fields

    def __str__(self) -> str:
        widths = self.stage_tp or (self.tp,)
        parts = [f"TP{'+'.join(str(tp) for tp in widths)}", f"PP{self.pp}"]
        extra = {"EP": self.ep, "DPA": self.attention_dp, "CP": self.cp}
        parts += [f"{name}{degree}" for name, degree in extra.items() if degree > 1]
        if self.stage_layers is not None and len(set(self.stage_layers)) > 1:
            parts.append("+".join(str(n) for n in self.stage_layers))
        return " ".join(parts)

    @property
    def gpus_per_stage(self) -> int:
        """GPUs of one pipeline stage, of the largest where they differ."""
        return self.tp * self.attention_dp * self.cp

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """GPUs of each pipeline stage."""
        return self.stage_tp or (self.gpus_per_stage,) * self.pp

    @property
    def num_ranks(self) -> int:
        """Groups of `tp` GPUs of a stage that work on different tokens."""
        return self.attention_dp * self.cp

    @property
    def num_gpus(self) -> int:
        """GPUs of one replica."""
        return sum(self.stage_widths)

    def of_stage(self, stage: int) -> "Parallelism":
        """The same with the tensor parallelism of one stage in all of them."""
        if self.stage_tp is None:
            return self
        return replace(self, tp=self.stage_tp[stage], stage_tp=None)

    def layers_per_stage(self, llm: LlmSpec) -> tuple[int, ...]:
        """Layers of each stage; the first stages take the remainder.

        The last stage is spared because it also holds the LM head.
        """
        if self.stage_layers is not None:
            return self.stage_layers
        even, extra = divmod(llm.num_layers, self.pp)
        return tuple(even + (stage < extra) for stage in range(self.pp))

    def why_not(self, llm: LlmSpec) -> str | None:
        """Why `llm` cannot be split this way, or None when it can."""
        degrees = dict.fromkeys(self.stage_tp or (self.tp,))
        tensor = [self._why_not_tensor(llm, tp) for tp in degrees]
        return (
            next((why_not for why_not in tensor if why_not), None)
            or self._why_not_pipeline(llm)
            or self._why_not_experts(llm)
            or self._why_not_ranks(llm)
        )

    def _why_not_tensor(self, llm: LlmSpec, tp: int) -> str | None:
        if llm.num_heads % tp:
            return f"TP{tp} does not divide the {llm.num_heads} heads"
        kv = llm.num_kv_heads
        # Beyond one K/V head a GPU the heads are replicated: TP must be a multiple.
        if llm.mla is None and kv % tp and tp % kv:
            return f"TP{tp} neither divides nor is a multiple of the {kv} KV heads"
        if llm.intermediate % tp:
            return f"TP{tp} does not divide the MLP width {llm.intermediate}"
        # GPUs that do not split the experts among them split every expert's width.
        expert_tp = max(1, tp * self.num_ranks // self.ep)
        if llm.moe and llm.moe.expert_intermediate % expert_tp:
            width = llm.moe.expert_intermediate
            return f"TP{expert_tp} does not divide the expert width {width}"
        return None

    def _why_not_pipeline(self, llm: LlmSpec) -> str | None:
        if self.pp > llm.num_layers:
            return f"PP{self.pp} has more stages than the {llm.num_layers} layers"
        if self.stage_layers and sum(self.stage_layers) != llm.num_layers:
            total = sum(self.stage_layers)
            return f"the stages hold {total} layers, the model has {llm.num_layers}"
        return None

    def _why_not_experts(self, llm: LlmSpec) -> str | None:
        if self.ep == 1:
            return None
        if llm.moe is None:
            return f"EP{self.ep} needs a mixture of experts"
        if llm.moe.num_experts % self.ep:
            return f"EP{self.ep} does not divide the {llm.moe.num_experts} experts"
        if self.gpus_per_stage % self.ep:
            return f"EP{self.ep} does not divide the {self.gpus_per_stage} GPUs a stage"
        return None

    def _why_not_ranks(self, llm: LlmSpec) -> str | None:
        if self.attention_dp > 1 and llm.moe is None:
            return (
                f"attention DP{self.attention_dp} needs a mixture of experts: ranks of "
                "a dense model share nothing, so they are replicas"
            )
        if self.cp > 1 and llm.linear is not None:
            return f"CP{self.cp} cannot split layers that carry a state along a prompt"
        return None
