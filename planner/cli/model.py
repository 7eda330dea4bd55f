"""``phaseplan model``: what an LLM needs on a GPU, and how fast it runs there."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.output import FormatOption, OutputOption, emit

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(
    name="model",
    help="Show what an LLM needs and how fast it runs.",
    no_args_is_help=True,
)


# A command with one verb only would lose its verb without a callback.
@app.callback()
def model() -> None:
    """Show what an LLM needs and how fast it runs."""


@app.command("show")
def show_model(
    llm: Annotated[str, typer.Argument(help="A name, or the path of a config.json.")],
    gpu: Annotated[str, typer.Option("--gpu", help="GPU type.")] = "h100_sxm",
    tp: Annotated[int, typer.Option("--tp", help="Tensor parallelism.")] = 1,
    pp: Annotated[int, typer.Option("--pp", help="Pipeline stages.")] = 1,
    ep: Annotated[int, typer.Option("--ep", help="Expert parallelism.")] = 1,
    attention_dp: Annotated[
        int, typer.Option("--attention-dp", help="Data parallelism of attention.")
    ] = 1,
    cp: Annotated[int, typer.Option("--cp", help="Context parallelism.")] = 1,
    source: Annotated[
        list[str] | None,
        typer.Option("--source", help="Latency source to ask; may be repeated."),
    ] = None,
    fmt: FormatOption = None,
    output: OutputOption = None,
) -> None:
    """Show shapes, memory on a GPU, room for KV tokens, and step latencies."""
    from clusters.gpu import GpuType
    from models.llm import LlmSpec
    from models.parallelism import Parallelism
    from planner.cli.model_facts import facts_of_model

    degrees = Parallelism(tp=tp, pp=pp, ep=ep, attention_dp=attention_dp, cp=cp)
    facts = facts_of_model(
        LlmSpec.load(llm), GpuType.load(gpu), degrees, sources=source or ()
    )
    emit(facts, fmt=fmt, table=lambda: _tables(facts), output=output)


def _tables(facts: dict[str, Any]) -> "RenderableType":
    from planner.cli.tables import sections

    memory = f"memory of one {facts['gpu']} with {facts['parallelism']}"
    return sections(
        (facts["llm"]["name"], _shapes(facts["llm"])),
        (memory, _memory(facts["memory"])),
        ("latency", _latency(facts["latency"])),
        ("", _prefill_table(facts["latency"]["prefill"])),
        ("", _decode_table(facts["latency"]["decode"])),
    )


def _shapes(llm: dict[str, Any]) -> "RenderableType":
    from planner.cli.tables import facts_table, quantity

    parameters = quantity(llm["parameters"], "parameters")
    if llm["moe"]:
        active = quantity(llm["active_parameters"], "parameters")
        parameters += f", {active} active"
    heads = f"{llm['num_heads']} of {llm['head_dim']}, {llm['num_kv_heads']} for KV"
    rows = [
        ("parameters", parameters),
        ("layers", str(llm["num_layers"])),
        ("width", f"{llm['hidden']:,}, MLP {llm['intermediate']:,}"),
        ("heads", heads),
        ("vocabulary", f"{llm['vocab']:,}"),
        ("longest context", quantity(llm["max_positions"], "tokens")),
        ("weights", quantity(llm["weights_bytes"], "bytes")),
        ("number formats", _formats(llm["precision"], has_experts=bool(llm["moe"]))),
        ("KV cache", quantity(llm["kv_bytes_per_token"], "bytes/token")),
    ]
    if llm["moe"]:
        moe = llm["moe"]
        text = f"{moe['experts_per_token']} of {moe['num_experts']} a token"
        rows.append(("experts", text))
    if llm["mla"]:
        rows.append(("latent attention", f"rank {llm['mla']['kv_lora_rank']}"))
    if llm["indexer"]:
        selected = f"{llm['indexer']['selected_tokens']:,} tokens"
        rows.append(("sparse attention", f"to the {selected} scored best"))
    if llm["linear"]:
        state = quantity(llm["state_bytes_per_request"], "bytes")
        layers = f"{len(llm['linear']['layers'])} of {llm['num_layers']} layers"
        rows.append(("linear attention", f"{layers}, {state} a request"))
    if llm["windows"]:
        windows = ", ".join(f"{window:,}" for window in llm["windows"])
        rows.append(("attention windows", f"{windows} tokens"))
        long = quantity(llm["kv_bytes_per_token_long"], "bytes/token")
        rows.append(("KV cache, windows full", long))
    return facts_table(rows)


def _formats(precision: dict[str, Any], *, has_experts: bool) -> str:
    """How each part is multiplied, parts of one format together."""
    names = {"attention": "attention", "mlp": "MLP", "experts": "experts"}
    parts: dict[str, list[str]] = {}
    for key, name in names.items():
        if key == "experts" and not has_experts:
            continue
        stored = precision[key]["bytes_per_weight"]
        text = f"{precision[key]['compute_dtype']} ({stored:.3g} bytes)"
        parts.setdefault(text, []).append(name)
    cache = f"KV {precision['kv']}"
    return "; ".join([*(f"{', '.join(v)} {k}" for k, v in parts.items()), cache])


def _memory(memory: dict[str, Any]) -> "RenderableType":
    from planner.cli.tables import facts_table, quantity

    keys = {
        "memory": "memory_bytes",
        "usable by the engine": "budget_bytes",
        "weights": "weights_bytes",
        "activations": "activation_bytes",
        "reserves": "reserve_bytes",
        "KV cache": "kv_bytes",
    }
    rows = [(label, quantity(memory[key], "bytes")) for label, key in keys.items()]
    tokens = f"{memory['max_kv_tokens']:,}"
    if memory["why_not"]:
        tokens = f"does not fit: {memory['why_not']}"
    rows.append(("KV tokens of the replica", tokens))
    return facts_table(rows)


def _latency(latency: dict[str, Any]) -> "RenderableType":
    from planner.cli.tables import facts_table

    error = latency["expected_error_frac"]
    rows = [
        ("source", f"{latency['source']} ({latency['provenance']})"),
        ("why", latency["reason"]),
        ("expected error", "not stated" if error is None else f"{error:.0%}"),
        ("links of", latency["machine"]),
    ]
    return facts_table(rows)


def _prefill_table(steps: list[dict[str, Any]]) -> "RenderableType":
    from planner.cli.tables import quantity, table_of

    headers = ["prefill: prompt tokens", "latency"]
    rows = [
        [f"{step['prompt_tokens']:,}", quantity(step["latency_ms"], "ms")]
        for step in steps
    ]
    return table_of(headers, rows, numeric=headers)


def _decode_table(steps: list[dict[str, Any]]) -> "RenderableType":
    from planner.cli.tables import quantity, table_of

    headers = ["decode: requests", "context tokens each", "latency"]
    rows = [
        [
            f"{step['num_requests']:,}",
            f"{step['context_tokens']:,}",
            quantity(step["latency_ms"], "ms"),
        ]
        for step in steps
    ]
    return table_of(headers, rows, numeric=headers)
