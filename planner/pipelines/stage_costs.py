"""Costs of one stage of a pipeline by the layers it holds: step tables and KV room.

A stage at the start of a pipeline has the embedding too, and one at its end the
language model head, so there are three kinds of place. Step tables are compiled at a
few numbers of layers (`knots_of`); times between are on the line through the nearest
two, which is what adding up layers gives. KV room is worked out for every number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from clusters.fields import spec
from clusters.gpu import GpuType
from clusters.links import GroupLink, GroupLinks, LinkKind
from models.latency.library import LatencyLibrary, LatencyRequest
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.memory import MemorySettings, memory_of_stage
from models.parallelism import Parallelism
from planner.pipelines.fleet import FloatArray


class Place(Enum):
    """Where in a pipeline a stage is."""

    FIRST = 0
    MIDDLE = 1
    LAST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StageKind:
    """GPUs that make one stage."""

    gpu: GpuType = spec("Their type.")
    tp: int = spec("How many, with a tensor-parallel group over them.", unit="GPUs")
    ring: GroupLink = spec("Links among them.")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCosts:
    """Times and KV room of a kind of stage in a place, by the layers it holds."""

    max_layers: int = spec("Most layers that leave room for a KV block.", unit="layers")
    kv_tokens: tuple[int, ...] = spec(
        "Tokens whose KV of all held layers fits, with 1, 2, ... layers.", unit="tokens"
    )
    knots: tuple[int, ...] = spec("Numbers of layers with a table.", unit="layers")
    tables: tuple[StepTable, ...] = spec("Step tables with as many, without a hop.")

    def decode_ms(self, batch: float, context_tokens: float) -> FloatArray:
        """Time of a decode step by layers held, shape ``(max_layers,)``."""
        num = max(1, round(batch))
        times = [t.decode_step_ms(num, num * context_tokens) for t in self.tables]
        return self._between(times)

    def prefill_ms(self, prompt_tokens: float) -> FloatArray:
        """Time of a prompt alone by layers held, shape ``(max_layers,)``."""
        prompt = [round(prompt_tokens)]
        return self._between([table.prefill_step_ms(prompt) for table in self.tables])

    def _between(self, times: Sequence[float]) -> FloatArray:
        held = np.arange(1, self.max_layers + 1)
        return np.asarray(np.interp(held, self.knots, times))


@dataclass(slots=True)
class StageCatalog:
    """Costs of the kinds of stages of one model, worked out when first asked for."""

    llm: LlmSpec
    library: LatencyLibrary
    memory: MemorySettings
    known: dict[tuple[StageKind, Place], StageCosts | None] = field(
        default_factory=dict
    )

    def costs(self, kind: StageKind, place: Place) -> StageCosts | None:
        """Costs of a kind of stage in a place; None when not one layer fits.

        Raises
        ------
        LatencyUnavailableError
            When no source covers the GPU type.
        """
        key = kind, place
        if key not in self.known:
            self.known[key] = self._work_out(kind, place)
        return self.known[key]

    def _work_out(self, kind: StageKind, place: Place) -> StageCosts | None:
        # Other stages hold at least a layer each.
        most = self.llm.num_layers - (2 if place is Place.MIDDLE else 1)
        kv_tokens = []
        for held in range(1, most + 1):
            split, stage = self._pipeline(kind, place, held)
            room = memory_of_stage(self.llm, split, stage, kind.gpu, self.memory)
            if not room.fits:
                break
            kv_tokens.append(room.max_kv_tokens)
        if not kv_tokens:
            return None
        knots = knots_of(len(kv_tokens))
        return StageCosts(
            max_layers=len(kv_tokens),
            kv_tokens=tuple(kv_tokens),
            knots=knots,
            tables=tuple(self._table(kind, place, held) for held in knots),
        )

    def _pipeline(
        self, kind: StageKind, place: Place, held: int
    ) -> tuple[Parallelism, int]:
        """A pipeline with a stage of `held` layers in a place, and its index there."""
        left = self.llm.num_layers - held
        layers = {
            Place.FIRST: (held, left),
            Place.MIDDLE: (1, held, left - 1),
            Place.LAST: (left, held),
        }[place]
        split = Parallelism(tp=kind.tp, pp=len(layers), stage_layers=layers)
        return split, 0 if place is Place.FIRST else 1

    def _table(self, kind: StageKind, place: Place, held: int) -> StepTable:
        split, stage = self._pipeline(kind, place, held)
        request = LatencyRequest(
            llm=self.llm,
            parallelism=split,
            gpu=kind.gpu,
            links=GroupLinks(
                tp=(kind.ring,) * split.pp, pp=(_NO_HOP,) * (split.pp - 1)
            ),
        )
        return self.library.choose(request).stages[stage]


_NO_HOP = GroupLink(bytes_per_s=1e15, latency_ms=0.0, kind=LinkKind.LOCAL)


def knots_of(most: int) -> tuple[int, ...]:
    """1, 4, 16, ... and the largest number of layers."""
    powers = [4**n for n in range(most.bit_length()) if 4**n < most]
    return (*powers, most)
