"""Deployment: which GPUs run which replica, and over which links the KV cache goes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import fields_to_mapping
from models.parallelism import Parallelism
from planner.simulator.system import (
    Batching,
    BatchLimits,
    Phase,
    Routing,
    kv_phases,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One instance of the model on concrete GPUs."""

    name: str = spec("Name, e.g. prefill-0.")
    phase: Phase = spec("What it does.")
    gpu_type: str = spec("Catalogue name of its GPUs, of its first stage's if unlike.")
    parallelism: Parallelism = spec("How the model is split.")
    stage_gpus: tuple[tuple[int, ...], ...] = spec(
        "GPUs (indices in the cluster) of each pipeline stage."
    )
    limits: BatchLimits = spec("Batch limits of its engine.")
    kv_capacity_tokens: int = spec("KV cache that fits.", unit="tokens", gt=0)
    kv_block_tokens: int = spec("Tokens of a KV block.", unit="tokens", gt=0)
    slice: int = spec(
        "Pairing group: KV caches stay within it.", unit="index", ge=0, default=0
    )
    stage_gpu_types: tuple[str, ...] | None = spec(
        "GPU type of each stage, where stages differ; None: `gpu_type` in all.",
        default=None,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if len(self.stage_gpus) != self.parallelism.pp:
            raise InputError(
                "stage_gpus", len(self.stage_gpus), f"{self.parallelism.pp} stages"
            )
        _check_stage_gpu_types(self)

    def to_file_form(self) -> Mapping[str, Any]:
        """All fields, `stage_gpu_types` only where stages differ."""
        fields: dict[str, Any] = fields_to_mapping(self)
        if self.stage_gpu_types is None:
            del fields["stage_gpu_types"]
        return fields

    @property
    def gpu_indices(self) -> tuple[int, ...]:
        """All its GPUs, stage by stage."""
        return tuple(gpu for stage in self.stage_gpus for gpu in stage)

    @property
    def shape(self) -> "ReplicaShape":
        """Everything about it but its name and its place."""
        return ReplicaShape(
            phase=self.phase,
            gpu_type=self.gpu_type,
            parallelism=self.parallelism,
            limits=self.limits,
            stage_gpu_types=self.stage_gpu_types,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaShape:
    """Phase, GPUs, parallelism and batching: replicas of one are interchangeable."""

    phase: Phase = spec("What it does.")
    gpu_type: str = spec("Catalogue name of its GPUs.")
    parallelism: Parallelism = spec("How the model is split.")
    limits: BatchLimits | None = spec(
        "Batch limits of its engine. None: the problem's.", default=None
    )
    stage_gpu_types: tuple[str, ...] | None = spec(
        "GPU type of each stage, where stages differ; None: `gpu_type` in all.",
        default=None,
    )

    def __post_init__(self) -> None:
        _check_stage_gpu_types(self)

    def __str__(self) -> str:
        if self.has_unlike_stages:
            return f"{self.phase} ({self.split}){self._batching}"
        return f"{self.phase} {self.gpu_type} {self.split}{self._batching}"

    @property
    def gpu_types(self) -> tuple[str, ...]:
        """GPU type of each stage."""
        return self.stage_gpu_types or (self.gpu_type,) * self.parallelism.pp

    @property
    def gpus_by_type(self) -> Mapping[str, int]:
        """GPUs of a replica of each type."""
        found: Counter[str] = Counter()
        widths = self.parallelism.stage_widths
        for name, width in zip(self.gpu_types, widths, strict=True):
            found[name] += width
        return found

    @property
    def has_unlike_stages(self) -> bool:
        """Whether stages have GPU types or tensor parallelism of their own."""
        return self.stage_gpu_types is not None or self.parallelism.stage_tp is not None

    @property
    def split(self) -> str:
        """The split of the model, e.g. ``TP2 PP2``.

        Unlike stages one by one: ``TP4 a100_sxm 48 layers + 2 x TP1 l4 16 layers``.
        """
        if not self.has_unlike_stages:
            return str(self.parallelism)
        widths = self.parallelism.stage_widths
        layers = self.parallelism.stage_layers or (None,) * len(widths)
        texts = [
            f"TP{tp} {name}" + ("" if held is None else f" {held} layers")
            for tp, name, held in zip(widths, self.gpu_types, layers, strict=True)
        ]
        runs = [(text, len(list(run))) for text, run in groupby(texts)]
        return " + ".join(f"{n} x {text}" if n > 1 else text for text, n in runs)

    @property
    def _batching(self) -> str:
        """How prompts are served: a policy that is not plain, a budget that is set."""
        limits = self.limits
        if limits is None or self.phase is Phase.DECODE:
            return ""
        text, budget = "", limits.max_batch_tokens
        is_plain = limits.policy is Batching.PREFILL_FIRST
        if self.phase is Phase.AGGREGATED or not is_plain:
            text = f" {limits.policy}"
        if limits.policy.cuts_prompts or budget != BatchLimits().max_batch_tokens:
            text += f" {budget}" if text else f" batch {budget}"
        return text


def _check_stage_gpu_types(owner: Replica | ReplicaShape) -> None:
    """One GPU type a stage, the first being `gpu_type`; ranks need equal stages."""
    types, parallelism = owner.stage_gpu_types, owner.parallelism
    if types is None:
        return
    if len(types) != parallelism.pp or types[0] != owner.gpu_type:
        form = f"{parallelism.pp} GPU types, the first {owner.gpu_type}"
        raise InputError("stage_gpu_types", types, form)
    if max(parallelism.ep, parallelism.num_ranks) > 1:
        form = "None with EP or several ranks a stage"
        raise InputError("stage_gpu_types", types, form)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """KV route from a prefill replica to a decode replica."""

    source: str = spec("Name of the prefill replica.")
    target: str = spec("Name of the decode replica.")
    bytes_per_s: float = spec("Rate with nothing else running.", unit="bytes/s", gt=0)
    latency_ms: float = spec("Fixed time of a transfer.", unit="ms", ge=0)
    kind: str = spec("Slowest kind of link on it (nvlink, pcie, network).")
    edges: tuple[int, ...] = spec("Links it crosses (indices in the topology).")
    share_frac: float | None = spec(
        "Share of all requests that the routing flow_shares sends over it.",
        unit="1",
        ge=0,
        le=1,
        default=None,
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def to_file_form(self) -> Mapping[str, Any]:
        """All fields, `share_frac` only where there is one."""
        fields: dict[str, Any] = fields_to_mapping(self)
        if self.share_frac is None:
            del fields["share_frac"]
        return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Replicas and the KV routes between them."""

    replicas: tuple[Replica, ...] = spec("All replicas, prefill first.")
    routes: tuple[Route, ...] = spec(
        "KV routes, one a prefill-decode pair.", default=()
    )
    routing: Routing = spec("Request routing.", default=Routing.SHORTEST_QUEUE)

    def __post_init__(self) -> None:
        if not self.replicas:
            raise InputError("replicas", (), "at least one replica")
        names = [replica.name for replica in self.replicas]
        if len(set(names)) != len(names):
            raise InputError("replicas", names, "different names")

    @property
    def gpu_indices(self) -> tuple[int, ...]:
        """All GPUs in use, in order."""
        return tuple(sorted(gpu for r in self.replicas for gpu in r.gpu_indices))

    @property
    def num_gpus(self) -> int:
        """Number of GPUs in use."""
        return len(self.gpu_indices)

    @property
    def is_disaggregated(self) -> bool:
        """Whether prefill and decode run on different replicas."""
        return any(replica.phase is Phase.PREFILL for replica in self.replicas)

    def of_phase(self, phase: Phase) -> tuple[Replica, ...]:
        """Replicas of one phase."""
        return tuple(r for r in self.replicas if r.phase is phase)

    def kv_pairs(self) -> Iterator[tuple[Replica, Replica]]:
        """Source and target of every KV route the routing policy may use.

        From prefill to decode replicas of a slice; where replicas are lent to the
        other phase, within the phases too.
        """
        for source_phase, target_phase in kv_phases(self.routing):
            targets: dict[int, list[Replica]] = {}
            for target in self.of_phase(target_phase):
                targets.setdefault(target.slice, []).append(target)
            for source in self.of_phase(source_phase):
                for target in targets.get(source.slice, []):
                    if target is not source:
                        yield source, target

    def with_limits(self, limits: BatchLimits, *phases: Phase) -> "Deployment":
        """The same with other batch limits on the replicas of `phases` (none: all)."""
        wanted = phases or tuple(Phase)
        replicas = tuple(
            replace(r, limits=limits) if r.phase in wanted else r for r in self.replicas
        )
        return replace(self, replicas=replicas)

    def pools(self) -> tuple["Pool", ...]:
        """Replicas grouped by shape, in order of first appearance."""
        groups: dict[ReplicaShape, list[Replica]] = {}
        for replica in self.replicas:
            groups.setdefault(replica.shape, []).append(replica)
        return tuple(Pool(shape=s, replicas=tuple(g)) for s, g in groups.items())

    def describe(self) -> str:
        """E.g. ``2P1D: 2 x prefill h100_sxm TP2 PP1 + 1 x decode h100_sxm TP1 PP1``.

        Aggregated: ``3 x aggregated h100_sxm TP2 PP1 chunked 512``.
        """
        pools = [f"{len(pool.replicas)} x {pool.shape}" for pool in self.pools()]
        count = {phase: len(self.of_phase(phase)) for phase in Phase}
        ratio = f"{count[Phase.PREFILL]}P{count[Phase.DECODE]}D: "
        return (ratio if self.is_disaggregated else "") + " + ".join(pools)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Replicas of one shape."""

    shape: ReplicaShape = spec("What they have in common.")
    replicas: tuple[Replica, ...] = spec("The replicas.")

    @property
    def num_gpus(self) -> int:
        """GPUs of the pool."""
        return sum(replica.parallelism.num_gpus for replica in self.replicas)


def gpu_ranges(indices: Iterable[int]) -> str:
    """Compact text of GPU indices, e.g. ``0-3,8``."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
