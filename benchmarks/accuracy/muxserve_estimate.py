"""The throughput estimate of MuxServe's released placement, written again.

Reference
    Duan et al., "MuxServe: Flexible Spatial-Temporal Multiplexing for Multiple LLM
    Serving", ICML 2024, arXiv 2404.02015, and its public repository
    (hao-ai-lab/MuxServe), `CostEstimator` in `muxsched/placement.py`.

What the product does otherwise is here on purpose, so that published and recomputed
figures can be compared:

* a cost table is a step function of the batch (rounded up to the next profiled one);
* a decode step is the mean over context lengths of running means, in file order;
* a prefill step is read at the first profiled length above the prompt;
* all prefills of a unit take turns, decodes run beside each other for free;
* the objective of a unit is a rate-weighted mean of throughputs that may exceed rates;
* a unit whose batches are all at their limits at once is worth nothing.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np

PREFILL_SM = 100
GPU_MEMORY_GB = 80
ACTIVATION_GB = 6
PROCESS_GB = 1.6
UNSORTED = "llama-7b", 8
"""Where the released table lists a length of 64 before 32: batch 1, and 30-50 % SMs."""
UNSORTED_SM = (30, 40, 50)


class Shape(NamedTuple):
    """What the released code knows about a model, by its name."""

    weights_gb: int
    base_gpus: int
    scale: int
    overhead_s: float
    token_kv_gib: float


@cache
def shape_of(model: str) -> Shape:
    """Facts by the size in the name."""
    size = int(model.rsplit("-", 1)[-1].removesuffix("b"))
    layers, hidden = {7: (32, 4096), 13: (40, 5120), 30: (60, 6656), 65: (80, 8192)}[
        size
    ]
    return Shape(
        weights_gb=2 * size,
        base_gpus={30: 2, 65: 4}.get(size, 1),
        scale={13: 2, 30: 4, 65: 8}.get(size, 1),
        overhead_s={7: 0.0001, 13: 0.00008}.get(size, 0.00007),
        token_kv_gib=layers * hidden * 2 * 2 / 1024**3,
    )


class CostTable:
    """The cost table as the released code reads it: seconds of a step by batch."""

    def __init__(self, path: Path, *, prompt: int, output: int) -> None:
        self.prompt, self.output = prompt, output
        self._cells: dict[tuple[str, int, int], dict[int, dict[int, tuple]]] = {}
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                key = row["model"], int(row["ngpu"]), int(row["mps"])
                cell = self._cells.setdefault(key, {}).setdefault(int(row["batch"]), {})
                cell[int(row["seq_len"])] = (row["prefill_ms"], row["decode_ms"])
        self.levels = sorted({sm for _, _, sm in self._cells})

    def sm_shares(self, model: str, num_gpus: int) -> list[int]:
        """Profiled SM percentages; empty when the pair was not profiled."""
        return sorted(sm for m, g, sm in self._cells if (m, g) == (model, num_gpus))

    def decode_s(self, model: str, num_gpus: int, sm: int) -> np.ndarray:
        """Seconds by batch, from 0 to the largest profiled one."""
        points = []
        for batch, cell in self._cells[model, num_gpus, sm].items():
            lengths = sorted(cell)
            if (model, num_gpus) == UNSORTED and (batch == 1 or sm in UNSORTED_SM):
                lengths[:2] = lengths[1::-1]
            latencies, running = [], []
            for length in lengths:
                text = cell[length][1]
                if not text:
                    continue
                latencies.append(float(text))
                running.append(np.mean(latencies) / 1000)
                if length > self.output:
                    break
            if running:
                points.append((batch, float(np.mean(running))))
        return _stairs([batch for batch, _ in points], [second for _, second in points])

    def prefill_s(self, model: str, num_gpus: int, decode_s: np.ndarray) -> np.ndarray:
        """Seconds by batch, as far as the decode steps go.

        The released code looks prefill up at the *index* of the decode batch, which is
        the same while both lists hold the powers of two from 1.
        """
        found = []
        for cell in self._cells[model, num_gpus, PREFILL_SM].values():
            second = None
            for length in sorted(cell):
                text = cell[length][0]
                if not text:
                    continue
                second = float(text) / 1000
                if length > self.prompt:
                    break
            if second is not None:
                found.append(second)
        batches = [2**i for i in range((len(decode_s) - 1).bit_length())]
        missing = [math.nan] * (len(batches) - len(found))
        return _stairs(batches, (found + missing)[: len(batches)])


def _stairs(batches: Sequence[int], seconds: Sequence[float]) -> np.ndarray:
    """The value at the next batch that has one, for every batch up to the last."""
    rounded_up = np.searchsorted(batches, np.arange(batches[-1] + 1), side="left")
    return np.array(seconds)[rounded_up]


@numba.njit(cache=True)
def _first_batch(decode_s, prefill_s, overhead_s, most, rate, output):
    """Bisection over real batches for the one whose throughput is the rate."""
    low, high, batch = 1.0, max(2.0, most), 1.0
    while high - low >= 1:
        batch = (low + high) / 2
        index = math.ceil(batch)
        decode = decode_s[index] + overhead_s * batch
        if batch / (decode * output + prefill_s[index]) >= rate:
            high = batch
        else:
            low = batch
    return int(batch)


@numba.njit(cache=True)
def unit_throughput(costs, models, levels, facts, unit, tpts):
    """Objective of a unit; its parts where it is reached come back in `tpts`.

    By LLM `models` and `levels` (indices into `costs`) and `facts` (rate, KV GiB a
    token, overhead in s); `unit` holds the KV cache in GiB and the tokens of a prompt
    and an answer.
    """
    decode_s, prefill_s, max_batch = costs
    num, output = len(facts), unit[2]
    demand = 0.0
    for i in range(num):
        demand += facts[i, 1] * facts[i, 0]
    most, batches = np.zeros(num), np.zeros(num, dtype=np.int64)
    for i in range(num):
        rate, token_gib = facts[i, 0], facts[i, 1]
        own_gib = rate * token_gib / demand * unit[0]
        profiled = max_batch[models[i], levels[i]]
        most[i] = min(own_gib // (token_gib * (output + unit[1])), profiled)
        batches[i] = _first_batch(
            decode_s[models[i], levels[i]],
            prefill_s[models[i]],
            facts[i, 2],
            most[i],
            rate,
            output,
        )
    # Raise the batch of the LLM furthest below its rate.
    best, now = 0.0, np.zeros(num)
    tpts[:] = 0.0
    while np.any(batches < most):
        prefills = 0.0
        for i in range(num):
            prefills += prefill_s[models[i], batches[i]]
        total, total_rate, last, last_ratio = 0.0, 0.0, -1, 100.0
        for i in range(num):
            rate = facts[i, 0]
            decode = decode_s[models[i], levels[i], batches[i]]
            decode += facts[i, 2] * batches[i]
            now[i] = batches[i] / (decode * output + prefills)
            total += now[i] * rate
            total_rate += rate
            is_short = now[i] + min(0.5, now[i] * 0.1) < rate
            if is_short and batches[i] < most[i] and now[i] / rate < last_ratio:
                last, last_ratio = i, now[i] / rate
        if best < total / total_rate:
            best = total / total_rate
            tpts[:] = now
        if last < 0:
            break
        batches[last] += 1
    return best


@numba.njit(cache=True)
def best_levels(costs, models, choices, facts, unit, tpts):
    """The row of `choices` (num_choices, num_llms) with the best objective, and it."""
    best, row = -1.0, 0
    now = np.zeros_like(tpts)
    for each in range(len(choices)):
        value = unit_throughput(costs, models, choices[each], facts, unit, now)
        if value > best:
            best, row = value, each
            tpts[:] = now
    return row, best


class Llm(NamedTuple):
    """One LLM of a case."""

    name: str
    model: str
    rate: float
    candidates: Mapping[int, int]
    """Decode SM percentage by mesh size."""

    @property
    def shape(self) -> Shape:
        """Facts by its name."""
        return shape_of(self.model)


class MeshCosts(NamedTuple):
    """Costs of all models of a case on one mesh size, as `unit_throughput` reads."""

    decode_s: np.ndarray
    """Shape (num_models, num_levels, max_batch + 1)."""
    prefill_s: np.ndarray
    """Shape (num_models, max_batch + 1)."""
    max_batch: np.ndarray
    """Shape (num_models, num_levels)."""


class Case:
    """One placement case: cluster, LLMs with their candidates, and the cost table."""

    def __init__(self, data: Mapping[str, Any], costs: CostTable) -> None:
        self.name: str = data["case"]
        self.num_nodes: int = data["cluster"]["nnodes"]
        self.node_gpus: int = data["cluster"]["ngpus_per_node"]
        self.costs = costs
        self.llms = tuple(
            Llm(
                name=model["name"],
                model=model["model"].rsplit("/", 1)[-1],
                rate=float(model["rate"]),
                candidates={
                    each["ngpu"]: each["decode_mps"]
                    for each in data["candidates"][model["name"]]
                },
            )
            for model in data["models"]
        )
        self.models = sorted({llm.model for llm in self.llms})
        self._facts = np.array(
            [
                (llm.rate, llm.shape.token_kv_gib, llm.shape.overhead_s)
                for llm in self.llms
            ]
        )
        self._model = np.array([self.models.index(llm.model) for llm in self.llms])
        self._on: dict[int, MeshCosts] = {}
        self._values: dict[tuple, tuple[float, tuple[float, ...]]] = {}

    @property
    def total_rate(self) -> float:
        """Requests a second of all LLMs."""
        return sum(llm.rate for llm in self.llms)

    def by_demand(self) -> list[int]:
        """LLMs in the order the released greedy places them."""
        llms = self.llms

        def base(i: int) -> tuple[float, int]:
            return llms[i].rate * llms[i].shape.base_gpus, llms[i].shape.base_gpus

        def scaled(i: int) -> tuple[float, int]:
            return llms[i].rate * llms[i].shape.scale, llms[i].shape.scale

        order = sorted(range(len(llms)), key=base, reverse=True)
        return sorted(order, key=scaled, reverse=True)

    def pool_gb(self, num_gpus: int, members: Sequence[int]) -> float:
        """KV cache of a unit: what 98 % of the memory leaves."""
        weights = sum(self.llms[i].shape.weights_gb for i in members)
        return GPU_MEMORY_GB * num_gpus * 0.98 - weights - len(members) * ACTIVATION_GB

    def throughputs(
        self, num_gpus: int, members: tuple[int, ...], shares: tuple[int, ...]
    ) -> tuple[float, tuple[float, ...]]:
        """Objective of a unit, and each member's throughput where it is reached."""
        key = (num_gpus, members, shares)
        if key not in self._values:
            levels = np.array([self.costs.levels.index(sm) for sm in shares])
            tpts = np.zeros(len(members))
            best = unit_throughput(*self._unit(num_gpus, members, levels), tpts)
            self._values[key] = best, tuple(tpts.tolist())
        return self._values[key]

    def best_shares(
        self, num_gpus: int, members: tuple[int, ...], choices: np.ndarray
    ) -> tuple[float, tuple[float, ...]]:
        """The same with the best row of `choices`: a level of SMs for each member."""
        tpts = np.zeros(len(members))
        _, best = best_levels(*self._unit(num_gpus, members, choices), tpts)
        return best, tuple(tpts.tolist())

    def _unit(
        self, num_gpus: int, members: Sequence[int], levels: np.ndarray
    ) -> tuple[Any, ...]:
        """Arguments of the compiled functions."""
        chosen = list(members)
        pool = max(0.0, self.pool_gb(num_gpus, members))
        unit = np.array([pool, self.costs.prompt, self.costs.output])
        of_llm = (self._model[chosen], levels, self._facts[chosen])
        return (self._costs_on(num_gpus), *of_llm, unit)

    def _costs_on(self, num_gpus: int) -> MeshCosts:
        if num_gpus not in self._on:
            steps = {
                (row, col): (decode, self.costs.prefill_s(model, num_gpus, decode))
                for row, model in enumerate(self.models)
                for col, sm in enumerate(self.costs.levels)
                if sm in self.costs.sm_shares(model, num_gpus)
                for decode in [self.costs.decode_s(model, num_gpus, sm)]
            }
            width = max(len(decode) for decode, _ in steps.values())
            size = (len(self.models), len(self.costs.levels))
            found = MeshCosts(
                decode_s=np.full((*size, width), math.nan),
                prefill_s=np.full((size[0], width), math.nan),
                max_batch=np.zeros(size),
            )
            for (row, col), (decode, prefill) in steps.items():
                found.decode_s[row, col, : len(decode)] = decode
                found.prefill_s[row, : len(prefill)] = prefill
                found.max_batch[row, col] = len(decode) - 1
            self._on[num_gpus] = found
        return self._on[num_gpus]
