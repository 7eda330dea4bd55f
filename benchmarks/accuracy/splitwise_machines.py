"""Machines of Splitwise's simulator as inputs of ours: its latencies, KV and batches.

What that simulator does is put into the *inputs* here, never into the product:

* `flat`: prefill by the tokens of the batch, decode by the number of decodes on a curve
  measured over *tokens*, so that a decode step hardly depends on its batch;
* a step holds whole prompts and decodes up to 2048 tokens, and the KV cache of the
  whole output is reserved (`orca`);
* a step with decodes takes 1.1 times a prefill of all its tokens: on machines that do
  both every prefill does, since decodes are nearly always there (machines that are lent
  go by our law of mixed steps, without the 1.1);
* machines that do both are chosen by the prompt tokens they have yet to prefill;
* a KV transfer takes bytes over 200 GiB/s, however many there are;
* KV memory is 8 x 80 GiB less the weights.

`measured` has the same machines with `published-splitwise`: the same table, where a
decode step depends on its batch and its context.
"""

import csv
from collections import defaultdict
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clusters.units import GIB, MS_PER_S
from models.latency.published_tables import load_publication
from models.latency.step_table import StepTable
from planner.simulator.control import Forecast, RouterSettings
from planner.simulator.outcome import SimulationResult
from planner.simulator.system import (
    Batching,
    BatchLimits,
    KvRoute,
    Phase,
    Routing,
    ServingReplica,
    ServingSystem,
    kv_phases,
)
from planner.workload.requests import Requests

FloatArray = NDArray[np.float64]

PERCENTS = (50, 90, 99)
METRICS = ("ttft", "tbt", "e2e")
SLO_SLOWDOWN = {
    "ttft": (2.0, 3.0, 6.0),
    "tbt": (1.25, 1.5, 5.0),
    "e2e": (1.25, 1.5, 5.0),
}
"""Slowdowns at P50, P90 and P99 against the request alone on DGX-A100."""

MODEL = "bloom-176b"
A100, H100, CAPPED = "a100-80gb", "h100-80gb", "h100-80gb-pcap"
GPU_TYPES = {A100: "a100_sxm", H100: "h100_sxm", CAPPED: "h100_sxm_capped"}
KV_BYTES_PER_TOKEN = 2 * 14336 * 70 * 2
KV_TOKENS = int((8 * 80 * GIB - 329e9) / KV_BYTES_PER_TOKEN)
MIXED_FACTOR = 1.1
TRANSFER_BYTES_PER_S = 200 * GIB
LIMITS = BatchLimits(policy=Batching.ORCA, max_batch_tokens=2048, max_num_seqs=512)

Machines = tuple[tuple[str, Phase, int], ...]
"""Hardware, phase and number of machines."""


@cache
def curve(folder: Path, hardware: str, column: str) -> tuple[FloatArray, FloatArray]:
    """Medians of a column by prompt tokens of the batch."""
    points: dict[int, list[float]] = defaultdict(list)
    with (folder / "perf_model_medians.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["model"] == MODEL and row["hardware"] == hardware:
                tokens = int(row["prompt_size"]) * int(row["batch_size"])
                points[tokens] += [float(row[column])] * int(row["n_repeats"])
    tokens = sorted(points)
    medians = [float(np.median(points[t])) for t in tokens]
    return np.array(tokens, dtype=np.float64), np.array(medians)


def from_zero(xs: FloatArray, ys: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A curve that continues with its first slope down to 0."""
    at_zero = ys[0] - xs[0] * (ys[1] - ys[0]) / (xs[1] - xs[0])
    return np.concatenate([[0.0], xs]), np.concatenate([[at_zero], ys])


def flat_table(folder: Path, hardware: str, phase: Phase) -> StepTable:
    """Step latencies as that simulator asks for them."""
    factor = MIXED_FACTOR if phase is Phase.AGGREGATED else 1.0
    prompt_x, prompt_ms = from_zero(*curve(folder, hardware, "prompt_ms"))
    token_x, token_ms = from_zero(*curve(folder, hardware, "token_ms"))
    return StepTable(
        prefill_tokens=tuple(prompt_x),
        prefill_ms=tuple(prompt_ms * factor),
        decode_batch=tuple(token_x),
        decode_ms=tuple(token_ms),
        decode_per_kv_token_ms=(0.0,) * len(token_x),
    )


def measured_table(hardware: str) -> StepTable:
    """The same measurements with a decode step that depends on batch and context."""
    tables = load_publication("splitwise").tables
    wanted = (MODEL, GPU_TYPES[hardware], 8)
    return next(t.table for t in tables if (t.llm, t.gpu, t.tp) == wanted)


def serving_system(
    folder: Path, machines: Machines, *, is_flat: bool, forecast: Forecast
) -> ServingSystem:
    """Pools where there are both phases, else machines that do everything."""
    replicas = tuple(
        ServingReplica(
            phase=phase,
            stages=(table,),
            limits=LIMITS,
            kv_capacity_tokens=KV_TOKENS,
            kv_block_tokens=1,
        )
        for hardware, phase, number in machines
        for table in [
            flat_table(folder, hardware, phase) if is_flat else measured_table(hardware)
        ]
        for _ in range(number)
    )
    phases = [replica.phase for replica in replicas]
    routes = tuple(
        KvRoute(
            source=source,
            target=target,
            latency_ms=0.0,
            ms_per_byte=MS_PER_S / TRANSFER_BYTES_PER_S,
        )
        for source, target in product(range(len(replicas)), repeat=2)
        if source != target
        and (phases[source], phases[target]) in kv_phases(Routing.SPLITWISE)
    )
    return ServingSystem(
        replicas=replicas,
        routes=routes,
        kv_bytes_per_token=KV_BYTES_PER_TOKEN,
        routing=Routing.SPLITWISE if routes else Routing.PENDING_TOKENS,
        router=RouterSettings(forecast=forecast),
    )


def read_requests(path: Path) -> Requests:
    """A trace in that simulator's form."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return Requests(
        arrival_ms=np.array([float(r["arrival_timestamp"]) * MS_PER_S for r in rows]),
        input_tokens=np.array([int(r["prompt_size"]) for r in rows]),
        output_tokens=np.array([int(r["token_size"]) for r in rows]),
    )


def at_rate(requests: Requests, rate_rps: float) -> Requests:
    """The same requests at another mean rate."""
    times = requests.arrival_ms
    scale = (len(times) - 1) / (times[-1] - times[0]) * MS_PER_S / rate_rps
    return replace(requests, arrival_ms=(times - times[0]) * scale)


def alone_ms(
    folder: Path, metric: str, inputs: FloatArray, outputs: FloatArray
) -> FloatArray:
    """Each request alone on DGX-A100, as that simulator's notebook looks it up.

    Its time between tokens is that of a *batch of as many requests as the prompt has
    tokens*.
    """
    prompt_x, prompt_ms = from_zero(*curve(folder, A100, "prompt_ms"))
    token_x, token_ms = from_zero(*curve(folder, A100, "token_ms"))
    ttft = np.interp(inputs, prompt_x, prompt_ms)
    tbt = np.interp(inputs, token_x, token_ms)
    if metric == "ttft":
        return ttft
    return tbt if metric == "tbt" else ttft + tbt * (outputs - 1.0)


def metrics_ms(result: SimulationResult) -> dict[str, FloatArray]:
    """TTFT, TBT and E2E; TBT is over all tokens, the first one too."""
    tbt = (result.e2e_ms - result.ttft_ms) / result.output_tokens
    return {"ttft": result.ttft_ms, "tbt": tbt, "e2e": result.e2e_ms}


def slowdowns(folder: Path, result: SimulationResult) -> dict[str, float]:
    """The nine percentiles of the SLO table."""
    inputs = result.input_tokens.astype(np.float64)
    outputs = result.output_tokens.astype(np.float64)
    found = {}
    for metric, values in metrics_ms(result).items():
        slow = values / alone_ms(folder, metric, inputs, outputs)
        for percent in PERCENTS:
            found[f"{metric}_p{percent}"] = float(np.percentile(slow, percent))
    return found


def num_met(found: dict[str, float]) -> int:
    """How many of the nine SLOs hold."""
    return sum(
        found[f"{metric}_p{percent}"] <= limit
        for metric, limits in SLO_SLOWDOWN.items()
        for percent, limit in zip(PERCENTS, limits, strict=True)
    )
