"""Pipeline stages from one table of a whole model: a share of the layers each.

What published tables allow: a stage takes its share of the layers, and all but the last
send every token's activations over the actual link.
"""

from dataclasses import replace

from models.communication import CommunicationEfficiency, pipeline_hop_ms
from models.latency.request import LatencyRequest
from models.latency.step_table import StepTable
from models.shapes import ACTIVATION_BYTES


def stages_by_layers(
    whole: StepTable, request: LatencyRequest, efficiency: CommunicationEfficiency
) -> tuple[StepTable, ...]:
    """One table a stage of `request`, from the table of all layers."""
    llm, parallelism = request.llm, request.parallelism
    token_bytes = float(ACTIVATION_BYTES * llm.hidden)
    stages = []
    for stage, num_layers in enumerate(parallelism.layers_per_stage(llm)):
        table = whole.scaled(num_layers / llm.num_layers)
        if stage < parallelism.pp - 1:
            link = request.links.pp[stage]
            fixed_ms = pipeline_hop_ms(0.0, link, efficiency=efficiency)
            sent_ms = pipeline_hop_ms(token_bytes, link, efficiency=efficiency)
            table = plus_line(table, fixed_ms, sent_ms - fixed_ms)
        stages.append(table)
    return tuple(stages)


def plus_line(table: StepTable, fixed_ms: float, per_token_ms: float) -> StepTable:
    """The table with a cost of every step and of every token in it added."""
    return replace(
        table,
        prefill_ms=tuple(
            v + fixed_ms + per_token_ms * x
            for v, x in zip(table.prefill_ms, table.prefill_tokens, strict=True)
        ),
        decode_ms=tuple(
            v + fixed_ms + per_token_ms * x
            for v, x in zip(table.decode_ms, table.decode_batch, strict=True)
        ),
    )
