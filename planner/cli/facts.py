"""Facts about catalogue entries: every number with its unit, source and date."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from clusters.cluster import Cluster
from clusters.dictionary import file_keys
from clusters.fields import spec
from clusters.gpu import GpuType, Source
from clusters.mapping import to_mapping
from clusters.node import GpuLink, NodeType
from clusters.serde import read_mapping
from clusters.shipped import shipped_clusters, shipped_entry
from models.flops import num_active_parameters, num_parameters
from models.llm import CATALOG, LlmSpec, Precision
from models.memory import kv_bytes_per_token
from planner.cli.llm_facts import (
    short_kv_bytes_per_token,
    state_bytes,
    weights_bytes,
)
from planner.kv_connectors import KvConnector
from planner.workload.presets import length_presets

COMPUTED = Source(source="computed from the numbers above", date="")
DEFAULT = Source(source="default of phaseplan", date="")
NOT_TOLD = Source(source="nobody said", date="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One value of a catalogue entry."""

    name: str = spec("Dotted name of the field.")
    value: Any = spec("Its value, as plain data.")
    unit: str = spec("Its unit; empty for text.", default="")
    meaning: str = spec("What it is.", default="")
    source: str = spec("Document, page or measurement.", default="")
    date: str = spec("Date of the source.", default="")


def facts_about(kind: str, name: str) -> tuple[Fact, ...]:
    """Everything the catalogue says about one of its entries."""
    return tuple(_READERS[kind](name))


def _gpu_facts(name: str) -> Iterator[Fact]:
    gpu = GpuType.load(name)
    source_of = _source_finder("gpus", gpu)
    for fact in _field_facts(gpu, source_of, skip=("name", "sources", "flops")):
        yield fact
        if fact.name == "memory_bytes_per_s":
            yield from _rate_facts(gpu, source_of("flops"))


def _rate_facts(gpu: GpuType, source: Source) -> Iterator[Fact]:
    for rate in gpu.flops:
        label = f"flops.{rate.dtype}"
        unit = "OP/s" if rate.dtype == "int8" else "FLOP/s"
        yield _fact(label, rate.flops_per_s, unit, "Dense peak.", source)


def _instance_facts(name: str) -> Iterator[Fact]:
    node = NodeType.load(name)
    source_of = _source_finder("instances", node)
    yield from _field_facts(node, source_of, skip=("name", "sources"))


def _llm_facts(name: str) -> Iterator[Fact]:
    llm = LlmSpec.load(name)
    config = read_mapping(CATALOG / f"{llm.name}.json")
    told = Source(source=str(config["_source"]), date=str(config["_date"]))
    yield from _field_facts(llm, _always(told), skip=("name", "windows"))
    for window in sorted({each for each in llm.windows if each is not None}):
        meaning = "Layers whose attention sees this many tokens."
        label, num = f"windows.{window}_tokens", llm.windows.count(window)
        yield _fact(label, num, "layers", meaning, told)
    derived = [
        ("parameters", num_parameters(llm), "parameters", "Without norms, biases."),
        ("active_parameters", num_active_parameters(llm), "parameters", "Of a token."),
        ("weights_bytes", weights_bytes(llm), "bytes", "All weights."),
        (
            "kv_bytes_per_token",
            short_kv_bytes_per_token(llm),
            "bytes/token",
            "KV cache of a token, all layers.",
        ),
    ]
    if llm.linear:
        meaning = "What linear-attention layers keep for a request."
        derived.append(("state_bytes", state_bytes(llm), "bytes", meaning))
    if llm.windows:
        long = kv_bytes_per_token(llm)
        meaning = "KV cache of one more token once all windows are full."
        derived.append(("kv_bytes_per_token_long", long, "bytes/token", meaning))
    for label, value, unit, meaning in derived:
        yield _fact(label, value, unit, meaning, COMPUTED)


def _cluster_facts(name: str) -> Iterator[Fact]:
    cluster = Cluster.load(name)
    given = read_mapping(shipped_clusters()[name])
    told = Source(source="this example cluster", date="")
    yield _fact("description", cluster.description, "", "What it is.", told)
    for label, value in _leaves("nodes", given["nodes"]):
        yield _fact(label, value, "", "", told)
    yield _fact("num_gpus", cluster.num_gpus, "1", "Number of GPUs.", COMPUTED)
    price = cluster.usd_per_hour(range(cluster.num_gpus))
    yield _fact("usd_per_hour", price, "usd/h", "Price of all of it.", COMPUTED)
    fabric = cluster.fabric
    keys = file_keys(type(fabric))
    in_file = {keys[key] for key in given.get("fabric", {})}
    for fact in _field_facts(
        fabric, lambda field: told if field in in_file else DEFAULT
    ):
        yield _renamed(fact, f"fabric.{fact.name}")


def _workload_facts(name: str) -> Iterator[Fact]:
    preset = length_presets()[name]
    told = Source(source=preset.source, date=preset.date)
    yield _fact("meaning", preset.meaning, "", "What traffic it stands for.", told)
    for side in ("input", "output"):
        lengths = getattr(preset, side)
        for fact in _field_facts(lengths, _always(told)):
            yield _renamed(fact, f"{side}.{fact.name}")
        mean, meaning = lengths.mean_tokens, "Mean after clipping."
        yield _fact(f"{side}.mean_tokens", mean, "tokens", meaning, COMPUTED)
    yield _fact("correlation", preset.correlation, "1", "Of the logarithms.", told)


def _connector_facts(name: str) -> Iterator[Fact]:
    connector = KvConnector.load(name)
    told = Source(source=connector.source, date=connector.date)
    for fact in _field_facts(connector, _always(told)):
        if fact.name not in ("name", "source", "date"):
            yield fact


_READERS: dict[str, Callable[[str], Iterator[Fact]]] = {
    "gpus": _gpu_facts,
    "instances": _instance_facts,
    "llms": _llm_facts,
    "clusters": _cluster_facts,
    "workloads": _workload_facts,
    "connectors": _connector_facts,
}


def _leaves(label: str, data: Any) -> Iterator[tuple[str, Any]]:
    """Plain data as dotted names with text and numbers."""
    if isinstance(data, dict):
        for key, item in data.items():
            yield from _leaves(f"{label}.{key}", item)
    elif isinstance(data, list) and any(isinstance(i, dict) for i in data):
        for index, item in enumerate(data):
            yield from _leaves(f"{label}[{index}]", item)
    else:
        yield label, data


def _always(source: Source) -> Callable[[str], Source]:
    """Tells the same source for every field."""
    return lambda _: source


def _source_finder(kind: str, entry: GpuType | NodeType) -> Callable[[str], Source]:
    """Tells who gave a field; one that its file leaves out has a default."""
    keys = file_keys(type(entry))
    in_file = {keys.get(key, key) for key in shipped_entry(kind, entry.name)}

    def source_of(field: str) -> Source:
        if field not in in_file:
            return DEFAULT
        return entry.source_of(field) or NOT_TOLD

    return source_of


def _field_facts(
    entry: Any, source_of: Callable[[str], Source], *, skip: tuple[str, ...] = ()
) -> Iterator[Fact]:
    """The fields of a dataclass; an absent or empty one is no fact."""
    for declared in fields(entry):
        value = getattr(entry, declared.name)
        if declared.name in skip or value is None or value == ():
            continue
        unit, meaning = declared.metadata["unit"], declared.metadata["meaning"]
        source = source_of(declared.name)
        if isinstance(value, Precision):
            yield from _precision_facts(value, source)
            continue
        if hasattr(value, "__dataclass_fields__") and not isinstance(value, GpuType):
            for fact in _field_facts(value, _always(source)):
                yield _renamed(fact, f"{declared.name}.{fact.name}")
            continue
        yield _fact(declared.name, value, unit, meaning, source)


def _precision_facts(precision: Precision, source: Source) -> Iterator[Fact]:
    for part in ("attention", "attention_out", "mlp", "experts", "embedding"):
        form = getattr(precision, part)
        if form is None:  # as the part before it
            continue
        meaning = f"A weight of {part}, multiplied in {form.compute_dtype}."
        label = f"precision.{part}"
        yield _fact(label, form.bytes_per_weight, "bytes", meaning, source)
    yield _fact("precision.kv", str(precision.kv), "", "KV cache.", source)


def _fact(name: str, value: Any, unit: str, meaning: str, source: Source) -> Fact:
    if isinstance(value, tuple) and value and isinstance(value[0], GpuLink):
        unit = "bytes/s"
        value = {"-".join(map(str, link.between)): link.bytes_per_s for link in value}
    return Fact(
        name=name,
        value=to_mapping(value),
        unit=unit,
        meaning=meaning,
        source=source.source,
        date=source.date,
    )


def _renamed(fact: Fact, name: str) -> Fact:
    return Fact(**{**to_mapping(fact), "name": name})
