"""Figures that papers print about step latencies, by every source that can answer.

    python benchmarks/accuracy/published_figures.py [--format json|text|markdown]

* SARATHI (Agrawal et al., 2023, arXiv 2308.16369), LLaMA-13B in fp16 on one RTX A6000,
  sequences of 1024 tokens: a layer is saturated by 512 prompt tokens; a decoded token
  costs 200, 100 and 16.7 times a prompt token at batch 1, 2 and 18; and the times it
  prints on the way, down to the edge of a tile.
* Splitwise (Patel et al., ISCA 2024, Table IV): Llama-2-70B on eight GPUs, requests one
  at a time with the median lengths of two traces; and decode time of batch 64 over
  batch 1 (its Figure 6 and released table).

Nothing here is fitted to the figures. First-principles and fitted sources describe a
current engine, published tables the engine of the paper; both are shown.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from clusters.gpu import GpuType
from clusters.links import GroupLink, GroupLinks, LinkKind
from models.latency.efficiency import RooflineEfficiency
from models.latency.fitted import FittedSource
from models.latency.published_tables import PublishedTableSource
from models.latency.request import LatencyRequest, LatencySource
from models.latency.roofline import RooflineSource
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.parallelism import Parallelism

CURRENT: dict[str, LatencySource] = {
    "fitted-vllm": FittedSource(),
    "roofline": RooflineSource(),
}
SAME_CHIP: dict[str, LatencySource] = {"fitted-vidur": FittedSource(engine="vidur")}
"""Kernels profiled on an A40, which has the chip of an A6000 (GA102)."""
HOST_MS_PER_LAYER = {"a100_sxm": 42.42 / 80, "h100_sxm": 28.36 / 80}
"""Splitwise's least decode step of Llama-2-70B, over its 80 layers: TP4 and TP8 take as
long, so the host sets it."""
SEQUENCE_TOKENS = 1024
LAYER_SAMPLE = (40, 20)
"""Numbers of layers whose difference gives one layer, without the ends of the model."""
TABLE_IV = {
    ("coding", "a100_sxm"): (185.0, 52.0),
    ("coding", "h100_sxm"): (95.0, 31.0),
    ("conversation", "a100_sxm"): (155.0, 40.0),
    ("conversation", "h100_sxm"): (84.0, 28.0),
}
"""TTFT and TBT in ms."""
LENGTHS = {"coding": (1500, 13), "conversation": (1020, 129)}
"""Median prompt and output tokens of the traces."""
BATCH_CONTEXT = 576
"""Prompts of 512 and outputs of 128 tokens, on average."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One published figure and what one source gives."""

    item: str
    name: str
    unit: str
    source: str
    ours: float
    published: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether ours is within the tolerance asked for."""
        return self.low <= self.ours <= self.high


def main(arguments: Sequence[str]) -> int:
    """Print the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--format", choices=("text", "json", "markdown"), default="text"
    )
    options = parser.parse_args(arguments)
    found = [*sarathi(), *splitwise(), *batches()]
    if options.format == "json":
        sys.stdout.write(json.dumps(report_of(found), indent=2) + "\n")
    else:
        sys.stdout.write(markdown_of(found))
    return 0


def sarathi() -> list[Figure]:
    """Saturation of a layer, and decode over prefill per token."""
    found = []
    llm = LlmSpec.load("llama-13b")
    for name, source in {**SAME_CHIP, **CURRENT}.items():
        whole, half = (
            table_of(source, replace(llm, num_layers=layers), "a6000", tp=1)
            for layers in LAYER_SAMPLE
        )
        rate = saturation(
            lambda tokens, a=whole, b=half: (
                a.prefill_step_ms([tokens]) - b.prefill_step_ms([tokens])
            )
        )
        found.append(
            Figure(
                item="saturation",
                name="layer's token rate at 512 tokens over its best",
                unit="1",
                source=name,
                ours=rate,
                published=1.0,
                low=0.85,
                high=1.0,
            )
        )
        prompt_ms = whole.prefill_step_ms([SEQUENCE_TOKENS]) / SEQUENCE_TOKENS
        for batch, published in ((1, 200.0), (2, 100.0), (18, 16.7)):
            step_ms = whole.decode_step_ms(batch, batch * SEQUENCE_TOKENS)
            found.append(
                within(
                    0.25,
                    item="decode_over_prefill",
                    name=f"decoded over prompt token, batch {batch}",
                    unit="times",
                    source=name,
                    ours=step_ms / batch / prompt_ms,
                    published=published,
                )
            )
        found += sarathi_times(name, whole, half)
    return found


def sarathi_times(source: str, whole: StepTable, half: StepTable) -> list[Figure]:
    """Times the paper prints: prefills, a layer's rate, a token of a decode batch."""
    layer_ms = whole.prefill_step_ms([4096]) - half.prefill_step_ms([4096])
    layers = LAYER_SAMPLE[0] - LAYER_SAMPLE[1]
    times = {
        "prefill of 128 tokens, ms": (whole.prefill_step_ms([128]), 55.0),
        "prefill of 256 tokens, ms": (whole.prefill_step_ms([256]), 69.8),
        "prefill of 257 tokens, ms": (whole.prefill_step_ms([257]), 92.33),
        "a layer's best rate, tokens/ms": (4096 * layers / layer_ms, 180.0),
        "token of a decode batch of 4, ms": (
            whole.decode_step_ms(4, 4 * SEQUENCE_TOKENS) / 4,
            12.49,
        ),
    }
    return [
        within(
            0.25,
            item="sarathi_times",
            name=name,
            unit=name.rpartition(", ")[2],
            source=source,
            ours=ours,
            published=published,
        )
        for name, (ours, published) in times.items()
    ]


def saturation(prefill_ms: Callable[[int], float]) -> float:
    """Token rate at 512 tokens over the best at powers of two up to 4096."""
    rates = {tokens: tokens / prefill_ms(tokens) for tokens in (512, 1024, 2048, 4096)}
    return rates[512] / max(rates.values())


def splitwise() -> list[Figure]:
    """Table IV: first token, and time between tokens, alone on eight GPUs."""
    found, llm = [], LlmSpec.load("llama-2-70b")
    for (workload, gpu), (ttft_ms, tbt_ms) in TABLE_IV.items():
        prompt, output = LENGTHS[workload]
        for name, source in sources_of(gpu).items():
            table = table_of(source, llm, gpu, tp=8)
            times = {
                "TTFT": (table.prefill_step_ms([prompt]), ttft_ms),
                "TBT": (table.decode_step_ms(1, prompt + output / 2), tbt_ms),
            }
            for metric, (ours, published) in times.items():
                found.append(
                    within(
                        0.20,
                        item="splitwise",
                        name=f"{workload} {metric} on {gpu}",
                        unit="ms",
                        source=name,
                        ours=ours,
                        published=published,
                    )
                )
    return found


def batches() -> list[Figure]:
    """Decode step of 64 requests over that of one."""
    found = []
    for llm, gpu, published in (
        ("bloom-176b", "a100_sxm", 1.93),
        ("bloom-176b", "h100_sxm", 1.76),
        ("llama-2-70b", "h100_sxm", 1.63),
    ):
        for name, source in sources_of(gpu).items():
            table = table_of(source, LlmSpec.load(llm), gpu, tp=8)
            one = table.decode_step_ms(1, BATCH_CONTEXT)
            many = table.decode_step_ms(64, 64 * BATCH_CONTEXT)
            found.append(
                Figure(
                    item="batch_1_to_64",
                    name=f"TBT of 64 over 1, {llm} on {gpu}",
                    unit="times",
                    source=name,
                    ours=many / one,
                    published=published,
                    low=1.6,
                    high=2.0,
                )
            )
    return found


def sources_of(gpu: str) -> dict[str, LatencySource]:
    """The paper's table, current sources, and the roofline with the paper's host."""
    eager = RooflineEfficiency(host_layer_ms=HOST_MS_PER_LAYER[gpu])
    return {
        "published-splitwise": PublishedTableSource(publication="splitwise"),
        **CURRENT,
        "roofline, host of the paper": RooflineSource(efficiency=eager),
    }


def within(tolerance_frac: float, *, published: float, **fields: object) -> Figure:
    """A figure that is to be met within a share of itself."""
    low, high = 1.0 - tolerance_frac, 1.0 + tolerance_frac
    return Figure(
        published=published, low=low * published, high=high * published, **fields
    )


def table_of(source: LatencySource, llm: LlmSpec, gpu: str, *, tp: int) -> StepTable:
    """The step table of one replica within an NVLink island."""
    kind = GpuType.load(gpu)
    link = GroupLink(
        bytes_per_s=kind.nvlink_bytes_per_s or kind.pcie_bytes_per_s,
        latency_ms=0.002,
        kind=LinkKind.NVLINK if kind.nvlink_bytes_per_s else LinkKind.PCIE,
    )
    request = LatencyRequest(
        llm=llm,
        parallelism=Parallelism(tp=tp),
        gpu=kind,
        links=GroupLinks(tp=(link,)),
    )
    return source.compile(request)[0]


def report_of(figures: Sequence[Figure]) -> dict[str, object]:
    """Summary (which sources meet every figure of an item), and all figures."""
    by_item: dict[str, dict[str, list[Figure]]] = defaultdict(lambda: defaultdict(list))
    for figure in figures:
        by_item[figure.item][figure.source].append(figure)
    return {
        "summary": {
            item: {
                source: {
                    "holds": all(figure.holds for figure in found),
                    "met": sum(figure.holds for figure in found),
                    "figures": len(found),
                    "worst_error_frac": max(
                        (figure.ours / figure.published - 1.0 for figure in found),
                        key=abs,
                    ),
                }
                for source, found in sources.items()
            }
            for item, sources in by_item.items()
        },
        "figures": [{**asdict(figure), "holds": figure.holds} for figure in figures],
    }


def markdown_of(figures: Sequence[Figure]) -> str:
    """One table an item: a row a figure, a column a source; bold where it holds."""
    by_item: dict[str, list[Figure]] = defaultdict(list)
    for figure in figures:
        by_item[figure.item].append(figure)
    blocks = []
    for found in by_item.values():
        sources = list(dict.fromkeys(figure.source for figure in found))
        cells: dict[str, dict[str, str]] = defaultdict(dict)
        for figure in found:
            value = f"{figure.ours:.3g}"
            cells[figure.name][figure.source] = (
                f"**{value}**" if figure.holds else value
            )
            cells[figure.name]["published"] = f"{figure.published:.3g}"
        columns = ["published", *sources]
        lines = [
            f"| Figure | {' | '.join(columns)} |",
            f"|---|{'---:|' * len(columns)}",
            *(
                f"| {name} | {' | '.join(row[column] for column in columns)} |"
                for name, row in cells.items()
            ),
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
