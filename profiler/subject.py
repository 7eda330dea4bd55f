"""Subject: what is measured, a part of a model at a tensor-parallel shard."""

from collections.abc import Sequence
from dataclasses import dataclass

from clusters.fields import InputError, check_fields, spec
from models.latency.profile import ENDS, layer_parts
from models.llm import LlmSpec
from models.parallelism import Parallelism
from models.profile_records import (
    Environment,
    Status,
    StepPoint,
    StepRecord,
    record_key,
)
from profiler.grid import GridPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A part of a model at a shard, with the format of its activations."""

    llm: LlmSpec = spec("The model.")
    tp: int = spec("Tensor parallelism.", unit="GPUs", ge=1, default=1)
    part: str = spec("A layer kind, or ends.")
    dtype: str = spec("Number format of the activations.", default="bf16")

    def __post_init__(self) -> None:
        check_fields(self)
        why_not = Parallelism(tp=self.tp).why_not(self.llm)
        if why_not:
            raise InputError("tp", self.tp, f"another degree: {why_not}")
        unknown = {
            "linear attention": self.llm.linear,
            "sparse attention": self.llm.indexer,
            "attention gates": self.llm.attention_gate,
        }
        for name, is_there in unknown.items():
            if is_there:
                form = f"a model without {name}: no layer measures it yet"
                raise InputError("model", self.llm.name, form)

    @property
    def is_ends(self) -> bool:
        """Whether it is the ends of a model, not a layer."""
        return self.part == ENDS

    def describe(self) -> str:
        """E.g. ``llama-3.1-8b TP1 dense bf16``."""
        return f"{self.llm.name} TP{self.tp} {self.part} {self.dtype}"

    def is_of(self, record: StepRecord) -> bool:
        """Whether a record measures this subject."""
        mine = (self.llm, self.tp, self.part, self.dtype)
        return mine == (record.llm, record.tp, record.part, record.dtype)

    def key_of(self, point: StepPoint, sm_share_frac: float = 1.0) -> str:
        """Key of this subject's record at a point, on a share of the SMs."""
        identity = (self.llm, self.tp, self.part, self.dtype)
        return record_key(identity, point, sm_share_frac)

    def unmeasured(
        self,
        target: GridPoint,
        environment: Environment,
        *,
        note: str,
        status: Status = Status.NOT_MEASURED,
    ) -> StepRecord:
        """The record of a point without a number, and why."""
        return StepRecord(
            environment=environment,
            llm=self.llm,
            tp=self.tp,
            part=self.part,
            dtype=self.dtype,
            sm_share_frac=target.sm_share_frac,
            point=target.point,
            role=target.role,
            status=status,
            note=note,
        )


def subjects_of(
    llm: LlmSpec, tps: Sequence[int], *, dtype: str, with_ends: bool = True
) -> tuple[Subject, ...]:
    """Every kind of layer of a model, and its ends, at each tensor parallelism."""
    parts = [*layer_parts(llm), *([ENDS] if with_ends else [])]
    return tuple(
        Subject(llm=llm, tp=tp, part=part, dtype=dtype) for tp in tps for part in parts
    )
