"""Pipelines of unlike stages: each stage's table from the source of its own GPUs.

Reference
    Jiang et al., "HexGen: Generative Inference of Large-Scale Foundation Model over
    Heterogeneous Decentralized Environment", ICML 2024, arXiv 2311.11514 (asymmetric
    tensor and pipeline parallelism).

Idea
    What a stage does depends on its own GPUs, its own tensor parallelism, the layers it
    holds where they lie in the model, and the hop to the next stage. So it is the stage
    of a pipeline of its kind throughout, and every latency source knows those.

Steps
    1. For every kind of stage (GPU type, tensor parallelism, ring) a pipeline of that
       kind with the layers of all stages; of its tables those of the kind's stages.
    2. Between stages of unlike tensor parallelism the parts of each token's activations
       do not fall on the GPUs one by one: those of the receiving stage gather them
       over their ring.

Assumes
    Activations travel in one part a GPU of the wider side (`Topology.route`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clusters.fields import InputError, spec
from clusters.gpu import GpuType
from clusters.links import GroupLinks
from models.communication import CommunicationEfficiency, all_gather_ms
from models.latency.layer_share import plus_line
from models.latency.library import LatencyLibrary
from models.latency.request import LatencyChoice, LatencyRequest, Provenance
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.parallelism import Parallelism
from models.shapes import ACTIVATION_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlikeRequest:
    """A replica whose stages may differ in GPU type, tensor parallelism and layers."""

    llm: LlmSpec = spec("The model.")
    parallelism: Parallelism = spec("How the replica is split.")
    gpus: tuple[GpuType, ...] = spec("The GPU type of each stage.")
    links: GroupLinks = spec("Links of each stage and between stages.")

    def __post_init__(self) -> None:
        if len(self.gpus) != self.parallelism.pp:
            num = self.parallelism.pp
            raise InputError("gpus", len(self.gpus), f"{num} (one a stage)")


def choose_unlike(library: LatencyLibrary, request: UnlikeRequest) -> LatencyChoice:
    """Step tables of every stage, with the weakest evidence among them.

    Raises
    ------
    LatencyUnavailableError
        When no source covers a stage.
    """
    # 1. A pipeline of each kind.
    own = [_of_kind(request, stage) for stage in range(request.parallelism.pp)]
    choices = [library.choose(each) for each in own]
    tables = [choice.stages[stage] for stage, choice in enumerate(choices)]
    # 2. Unlike tensor parallelism.
    for stage in range(1, len(tables)):
        tables[stage] = _gathered(request, stage, tables[stage])
    errors = [choice.expected_error_frac for choice in choices]
    known = [error for error in errors if error is not None]
    return LatencyChoice(
        stages=tuple(tables),
        source=_joined([choice.source for choice in choices], " + "),
        provenance=min(
            (choice.provenance for choice in choices), key=list(Provenance).index
        ),
        reason=_joined([choice.reason for choice in choices], "; "),
        expected_error_frac=max(known) if len(known) == len(errors) else None,
    )


def _of_kind(request: UnlikeRequest, stage: int) -> LatencyRequest:
    """A pipeline of the kind of one stage throughout."""
    links, num_stages = request.links, request.parallelism.pp
    return LatencyRequest(
        llm=request.llm,
        parallelism=request.parallelism.of_stage(stage),
        gpu=request.gpus[stage],
        links=replace(links, tp=(links.tp[stage],) * num_stages),
    )


def _gathered(request: UnlikeRequest, stage: int, table: StepTable) -> StepTable:
    """The table with what gathering parts from a stage of unlike width costs."""
    before, width = request.parallelism.stage_widths[stage - 1 : stage + 1]
    if before == width:
        return table
    ring, efficiency = request.links.tp[stage], CommunicationEfficiency()
    token_bytes = float(ACTIVATION_BYTES * request.llm.hidden)
    fixed_ms, token_ms = (
        all_gather_ms(num_bytes, ring, num_gpus=width, efficiency=efficiency)
        for num_bytes in (0.0, token_bytes)
    )
    return plus_line(table, fixed_ms, token_ms - fixed_ms)


def _joined(texts: Sequence[str], between: str) -> str:
    """Each text once."""
    return between.join(dict.fromkeys(texts))
