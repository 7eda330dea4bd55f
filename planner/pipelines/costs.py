"""Costs of a machine by the layers it holds: step tables, KV room, typical rate."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from clusters.fields import InputError, check_fields, spec
from clusters.gpu import GpuType
from clusters.links import GroupLink, GroupLinks, LinkKind
from clusters.units import MS_PER_S
from models.latency.library import LatencyLibrary, LatencyRequest
from models.latency.step_table import StepTable, interpolate
from models.llm import LlmSpec
from models.memory import MemorySettings, memory_of
from models.parallelism import Parallelism
from planner.pipelines.fleet import Fleet
from planner.workload.requests import Requests

_ITERATIONS = 20
"""Rates and the batches they lead to agree to a part in a million by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCosts:
    """What a machine takes for a step and has room for, by the layers it holds."""

    steps: tuple[StepTable, ...] = spec("Step latencies with 1, 2, … layers.")
    kv_tokens: tuple[int, ...] = spec(
        "Tokens whose KV of all held layers fits, with 1, 2, … layers.", unit="tokens"
    )

    def __post_init__(self) -> None:
        if not self.steps or len(self.steps) != len(self.kv_tokens):
            num = len(self.kv_tokens)
            raise InputError("steps", len(self.steps), f"{num} tables, at least one")

    @property
    def max_layers(self) -> int:
        """Most layers it holds."""
        return len(self.steps)

    def scaled(self, factor: float) -> "MachineCosts":
        """The same machine with every latency multiplied by `factor`."""
        steps = tuple(step.scaled(factor) for step in self.steps)
        return MachineCosts(steps=steps, kv_tokens=self.kv_tokens)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CostedFleet:
    """A fleet with the costs of every kind of its machines."""

    fleet: Fleet = spec("Machines and links.")
    costs: Mapping[str, MachineCosts] = spec("Costs by the name of the kind.")

    def __post_init__(self) -> None:
        for name in self.fleet.kind_names:
            kind, costs = self.fleet.kind(name), self.costs.get(name)
            if costs is None or costs.max_layers < kind.max_layers:
                form = f"costs with up to {kind.max_layers} layers"
                raise InputError(f"costs.{name}", costs and costs.max_layers, form)

    def of(self, machine: int) -> MachineCosts:
        """Costs of a machine."""
        return self.costs[self.fleet.kinds[machine].name]


@dataclass(frozen=True, slots=True, kw_only=True)
class TypicalLoad:
    """Requests as they are on average, and how full machines typically are."""

    input_tokens: float = spec("Prompt.", unit="tokens", gt=0)
    output_tokens: float = spec("Answer.", unit="tokens", gt=0)
    fill_frac: float = spec(
        "Share of the KV room in use; Helix plans with 0.3.",
        unit="1",
        gt=0,
        le=1,
        default=0.3,
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, requests: Requests) -> Self:
        """The load of requests with these lengths."""
        return cls(
            input_tokens=float(requests.input_tokens.mean()),
            output_tokens=float(requests.output_tokens.mean()),
        )

    @property
    def tokens(self) -> float:
        """Tokens of a request."""
        return self.input_tokens + self.output_tokens

    def request_ms(self, step: StepTable, batch: float) -> float:
        """Time of a machine for a request: its prompt, and its part of the batches."""
        context = self.input_tokens + 0.5 * self.output_tokens
        prompt_ms = step.prefill_step_ms([round(self.input_tokens)])
        slope = interpolate(batch, step.decode_batch, step.decode_per_kv_token_ms)
        fixed = interpolate(batch, step.decode_batch, step.decode_ms)
        decode_ms = fixed + slope * batch * context
        return prompt_ms + self.output_tokens / batch * decode_ms


def machine_costs(
    library: LatencyLibrary,
    llm: LlmSpec,
    gpu: GpuType,
    *,
    ring: GroupLink | None = None,
    num_gpus: int = 1,
    memory: MemorySettings | None = None,
) -> MachineCosts | None:
    """Costs of a tensor-parallel group of `num_gpus`; None when not a layer fits.

    A machine with k layers is taken for one of a pipeline of equal machines: its step
    table is that of a stage in the middle, its KV room that of the tightest stage.
    """
    alone = GroupLink(
        bytes_per_s=gpu.memory_bytes_per_s, latency_ms=0.0, kind=LinkKind.LOCAL
    )
    steps, kv_tokens = [], []
    for held in range(1, llm.num_layers + 1):
        parallelism = _pipeline_of_equals(llm, held, num_gpus)
        room = memory_of(llm, parallelism, gpu, memory)
        if not room.fits:
            break
        hops = (alone,) * (parallelism.pp - 1)
        request = LatencyRequest(
            llm=llm,
            parallelism=parallelism,
            gpu=gpu,
            links=GroupLinks(tp=(ring or alone,) * parallelism.pp, pp=hops),
        )
        tables = library.choose(request).stages
        steps.append(tables[1 if len(tables) > 2 else 0])
        kv_tokens.append(room.max_kv_tokens)
    if not steps:
        return None
    return MachineCosts(steps=tuple(steps), kv_tokens=tuple(kv_tokens))


def _pipeline_of_equals(llm: LlmSpec, held: int, tp: int) -> Parallelism:
    whole, rest = divmod(llm.num_layers, held)
    layers = (held,) * whole + ((rest,) if rest else ())
    return Parallelism(tp=tp, pp=len(layers), stage_layers=layers)


def typical_rates(
    costs: Mapping[str, MachineCosts],
    counts: Mapping[str, int],
    num_layers: int,
    load: TypicalLoad,
) -> dict[str, tuple[float, ...]]:
    """Tokens/s of each kind of machine by the layers held, at typical batches.

    The batch of a machine is its share of the requests under way: the KV room that is
    filled, times the part of a token's round trip that the machine takes. Round trips
    follow from the rates of the mix (`counts` machines of each kind), so both are
    iterated.
    """
    layer_ms = {
        name: each.steps[0].decode_step_ms(1, 1) for name, each in costs.items()
    }
    held = typical_layers(costs, counts, num_layers)
    rates: dict[str, tuple[float, ...]] = {}
    for _ in range(_ITERATIONS):
        mean_ms = mean_layer_ms(layer_ms, counts, held)
        rates = {
            name: rates_in_mix(each, num_layers, load, layer_ms[name], mean_ms)
            for name, each in costs.items()
        }
        layer_ms = {
            name: MS_PER_S / (held[name] * own[held[name] - 1])
            for name, own in rates.items()
        }
    return rates


def rates_in_mix(
    costs: MachineCosts,
    num_layers: int,
    load: TypicalLoad,
    layer_ms: float,
    mean_layer_ms: float,
) -> tuple[float, ...]:
    """Rates of one kind by the layers held.

    `layer_ms` and `mean_layer_ms` are what a token takes in a layer, here and on
    average over the mix.
    """
    rates = []
    for held, (step, kv) in enumerate(
        zip(costs.steps, costs.kv_tokens, strict=True), start=1
    ):
        here_ms = held * layer_ms
        share = here_ms / ((num_layers - held) * mean_layer_ms + here_ms)
        batch = max(1.0, load.fill_frac * kv / load.tokens * share)
        rates.append(MS_PER_S * load.tokens / load.request_ms(step, batch))
    return tuple(rates)


def mean_layer_ms(
    layer_ms: Mapping[str, float], counts: Mapping[str, int], held: Mapping[str, int]
) -> float:
    """Time per token and layer, averaged over the layers that are held."""
    weights = {name: counts[name] * held[name] for name in counts}
    total = sum(weights[name] * layer_ms[name] for name in counts)
    return total / sum(weights.values())


def typical_layers(
    costs: Mapping[str, MachineCosts], counts: Mapping[str, int], num_layers: int
) -> dict[str, int]:
    """Layers a machine of each kind typically holds: room evenly used, some to spare.

    Every kind holds the same share of its most, 1.5 times what covers the model once.
    """
    room = sum(counts[name] * costs[name].max_layers for name in counts)
    share = min(1.0, _SPARE * num_layers / room)
    return {
        name: max(1, math.floor(share * costs[name].max_layers + 0.5))
        for name in counts
    }


_SPARE = 1.5
