"""What the machines of the Helix reference take for a step, from first principles.

The reference has rates at typical batches only. To serve a layout token by token, step
latencies are needed at every batch: the roofline of the catalogue's GPU types, with two
facts of these machines, read from the layer times that come with Helix's code (one
Llama-2-70B layer, 2000 prompt tokens):

* the share of the tensor peak that a long prompt reaches: T4 and L4 are held back by
  their 70 W far below the 0.76 of larger GPUs;
* GPUs of one host exchange activations through its memory, at about 5 GB/s.

Nothing is fitted to the reference's rates: `typical_error_frac` compares with them.
"""

import re
from dataclasses import dataclass

import numpy as np

from clusters.gpu import GpuType
from clusters.links import GroupLink, LinkKind
from models.latency.efficiency import RooflineEfficiency
from models.latency.library import LatencyLibrary
from models.latency.roofline import RooflineSource
from models.llm import LlmSpec
from models.memory import MemorySettings
from planner.pipelines.costs import (
    CostedFleet,
    MachineCosts,
    TypicalLoad,
    machine_costs,
    mean_layer_ms,
    rates_in_mix,
)
from planner.pipelines.fleet import Fleet
from planner.workload.lengths import LognormalLengths
from planner.workload.lognormal import Lognormal
from planner.workload.requests import Requests

LLMS = {"llama70b": "llama-2-70b", "llama30b": "llama-30b"}
GPUS = {
    "A100": ("a100_sxm_40gb", 0.78),
    "L4": ("l4", 0.39),
    "T4": ("t4", 0.41),
    "V100": ("v100_sxm", 0.74),
}
"""GPU type by kind of machine, and the share of its tensor peak that prompts reach."""
HOST_BYTES_PER_S = 5e9
MAX_PROMPT_TOKENS = 2048

PLANNED = TypicalLoad(input_tokens=750, output_tokens=240, fill_frac=0.3)
"""The mean request and the fill that the reference's typical rates assume."""

LENGTHS = LognormalLengths(
    input=Lognormal.from_mean_cv(763.1, 0.58, min_tokens=4, max_tokens=2047),
    output=Lognormal.from_mean_cv(232.4, 0.71, min_tokens=4, max_tokens=1000),
    correlation=0.46,
)
"""Azure conversation trace of 2023 without prompts beyond 2048 and answers beyond 1024
tokens, as Helix cuts it: its published means; spread and correlation from the trace."""


@dataclass(frozen=True, kw_only=True)
class MachineKindError:
    """How our typical rates of a kind compare with the reference's."""

    kind: str
    ratio_by_layers: tuple[float, ...]


def requests(num: int = 20_000, seed: int = 0) -> Requests:
    """Requests of these lengths; the first token counts as part of the prompt there."""
    inputs, outputs = LENGTHS.draw(num, np.random.default_rng(seed))
    return Requests(
        arrival_ms=np.zeros(num), input_tokens=inputs, output_tokens=outputs + 1
    )


def costs_of(kind: str, llm: LlmSpec) -> MachineCosts | None:
    """Costs of a kind such as `T4x4`; None when its GPU is not known."""
    match = re.fullmatch(r"(.*?)(?:x(\d+))?", kind)
    if match is None or match[1] not in GPUS:
        return None
    name, compute_frac = GPUS[match[1]]
    efficiency = RooflineEfficiency(compute_frac=compute_frac)
    ring = GroupLink(bytes_per_s=HOST_BYTES_PER_S, latency_ms=0.02, kind=LinkKind.PCIE)
    num_gpus = int(match[2] or 1)
    return machine_costs(
        LatencyLibrary(sources=(RooflineSource(efficiency=efficiency),)),
        llm,
        GpuType.load(name),
        ring=ring if num_gpus > 1 else None,
        num_gpus=num_gpus,
        memory=MemorySettings(max_batch_tokens=MAX_PROMPT_TOKENS),
    )


def costed(fleet: Fleet, table_name: str) -> CostedFleet | None:
    """The fleet with costs; None when its model or a machine is not known."""
    model = table_name.lower().split("_")[0]
    if model not in LLMS:
        return None
    llm = LlmSpec.load(LLMS[model])
    costs = {name: costs_of(name, llm) for name in fleet.kind_names}
    known = {name: found for name, found in costs.items() if found is not None}
    return (
        CostedFleet(fleet=fleet, costs=known) if known.keys() == costs.keys() else None
    )


def rate_errors(machines: CostedFleet) -> list[MachineKindError]:
    """Our rates at typical batches over those of the reference, by layers held.

    A machine typically holds two thirds of its most, or all where that covers less
    than 1.2 times the model; its share of a round trip follows from the reference.
    """
    fleet = machines.fleet
    kinds = [fleet.kind(name) for name in fleet.kind_names]
    counts = {kind.name: len(fleet.of_kind(kind.name)) for kind in kinds}
    most = {kind.name: kind.max_layers for kind in kinds}
    held = {name: max(1, round(2 * layers / 3)) for name, layers in most.items()}
    if sum(counts[name] * held[name] for name in held) < 1.2 * fleet.num_layers:
        held = most
    layer_ms = {k.name: 1e3 / (held[k.name] * k.rate(held[k.name])) for k in kinds}
    mean_ms = mean_layer_ms(layer_ms, counts, held)
    found = []
    for kind in kinds:
        costs = machines.costs[kind.name]
        ours = rates_in_mix(
            costs, fleet.num_layers, PLANNED, layer_ms[kind.name], mean_ms
        )
        ratios = np.array(ours[: kind.max_layers]) / np.array(kind.tokens_per_s)
        found.append(
            MachineKindError(kind=kind.name, ratio_by_layers=tuple(ratios.tolist()))
        )
    return found
