"""Rows of a file of measured serving runs, and what their columns mean.

The columns name the engine, the GPU system, the model with its number formats, the
lengths, the parallelism and the concurrency. Three of them need interpreting:

`source`
    ``db-dump/DATE; ...`` and ``source_file=DATE.csv; ...`` are two exports of the
    public harness (InferenceX); everything else (``source_file=h100_sxm/...``,
    ``source_file=NAME-gap-analysis.csv``) counts as another. The gap analyses repeat
    measurements of the public harness number by number, so they were launched alike.
    ``silicon_concurrency`` is the number of clients, ``measured`` the day of the run;
    the last part names the container image, whose tag is kept.
`batch_size`
    The concurrency, or that of one rank of an attention-data-parallel instance.
`tp_size`, `attention_dp_size`
    The public harness runs a replica on T GPUs with its experts on E of them. Its
    exports multiply the two where both exceed 1, so that a node of 8 GPUs reads
    ``tp 64, moe_tp 8, moe_ep 8`` or ``tp 1, attention_dp 64``, and vLLM with
    ``--enable-expert-parallel`` reads ``tp 4, attention_dp 4, moe_ep 16``.
"""

import csv
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from clusters.fields import InputError
from models.parallelism import Parallelism

PUBLIC_HARNESS = re.compile(r"(source_file=)?\d{4}-\d{2}-\d{2}|db-dump")
REPEATED_RUNS = "-gap-analysis.csv"
MODES = ("agg", "disagg")
NODE_GPUS = 8
"""GPUs of a node; on the NVL72 systems a domain is larger."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Equal instances of one phase (or of both)."""

    parallelism: Parallelism
    num_instances: int = 1
    batch_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured run."""

    id: str
    engine: str
    version: str
    model: str
    model_path: str
    system: str
    mode: str
    input_tokens: int
    output_tokens: int
    gemm_quant: str
    moe_quant: str
    concurrency: int | None
    pools: tuple[Pool, ...] | None
    is_public: bool
    is_public_run: bool
    day: str
    image: str
    ttft_ms: float
    tpot_ms: float
    other_ttft_ms: float | None
    other_tpot_ms: float | None
    problem: str = ""

    @property
    def is_compared(self) -> bool:
        """Whether it is of the public harness and the other tool predicts it."""
        others = (self.other_ttft_ms, self.other_tpot_ms)
        return self.is_public and None not in others

    @property
    def has_ranks(self) -> bool:
        """Whether the attention of its last pool is data-parallel."""
        return self.pools is not None and self.pools[-1].parallelism.attention_dp > 1

    @property
    def has_ep(self) -> bool:
        """Whether the experts of its last pool are spread over GPUs."""
        return self.pools is not None and self.pools[-1].parallelism.ep > 1


def read_rows(path: Path) -> list[Row]:
    """Every row of a file; one that cannot be interpreted carries its problem.

    A second row of one `id` gets a number behind it.
    """
    with path.open(newline="") as file:
        rows = [
            _row(defaultdict(str, line)) for line in csv.DictReader(file, restval="")
        ]
    seen = Counter[str]()
    for place, row in enumerate(rows):
        seen[row.id] += 1
        if seen[row.id] > 1:
            rows[place] = replace(row, id=f"{row.id} #{seen[row.id]}")
    return rows


def _row(line: Mapping[str, str]) -> Row:
    source = line["source"]
    clients = re.search(r"silicon_concurrency=(\d+)", source)
    day = re.search(r"measured=(\d{4}-\d{2}-\d{2})", source)
    is_public = PUBLIC_HARNESS.match(source) is not None
    is_public_run = is_public or REPEATED_RUNS in source
    problem, pools = _unreadable(line), None
    try:
        pools = _pools(line, is_public=is_public_run)
    except InputError as error:
        problem = problem or f"{error.key} {error.value}: {error.expected} expected"
    concurrency = int(clients.group(1)) if clients else _count(line, "batch_size")
    if concurrency is None and pools is not None and pools[-1].batch_size is not None:
        concurrency = pools[-1].batch_size * pools[-1].num_instances
    if not concurrency or concurrency < 1:
        problem = problem or "no concurrency"
    return Row(
        id=line["id"],
        engine=line["backend"],
        version=line["backend_version"],
        model=line["model_path"].rsplit("/", 1)[-1],
        model_path=line["model_path"],
        system=line["system"],
        mode=line["mode"],
        input_tokens=_count(line, "isl") or 0,
        output_tokens=_count(line, "osl") or 0,
        gemm_quant=line["gemm_quant_mode"],
        moe_quant=line["moe_quant_mode"],
        concurrency=concurrency,
        pools=pools,
        is_public=is_public,
        is_public_run=is_public_run,
        day=day.group(1) if day else "",
        image=source.rsplit(":", 1)[-1].strip(),
        ttft_ms=_number(line, "measured_ttft_ms") or 0.0,
        tpot_ms=_number(line, "measured_tpot_ms") or 0.0,
        other_ttft_ms=_number(line, "aiconfigurator_ttft_ms"),
        other_tpot_ms=_number(line, "aiconfigurator_tpot_ms"),
        problem=problem,
    )


def _unreadable(line: Mapping[str, str]) -> str:
    """What keeps a row from being read at all, or nothing."""
    for key in ("isl", "osl", "measured_ttft_ms", "measured_tpot_ms"):
        value = _number(line, key)
        if value is None or value <= 0.0:
            return f"{key}: a positive number expected"
    if line["mode"] not in MODES:
        return f"mode {line['mode']!r}: one of {', '.join(MODES)} expected"
    return ""


def _pools(line: Mapping[str, str], *, is_public: bool) -> tuple[Pool, ...]:
    if line["mode"] == "agg":
        return (_pool(line, "", is_public=is_public),)
    named = [
        f"{phase}_{key}"
        for phase in ("prefill", "decode")
        for key in ("num_workers", "batch_size")
    ]
    missing = [key for key in named if _count(line, key) is None]
    if missing:
        raise InputError("configuration", "incomplete", missing[0])
    return tuple(
        _pool(line, f"{phase}_", is_public=is_public) for phase in ("prefill", "decode")
    )


def _pool(line: Mapping[str, str], prefix: str, *, is_public: bool) -> Pool:
    sizes = [
        _count(line, f"{prefix}{key}_size") or 1
        for key in ("tp", "pp", "attention_dp", "moe_tp", "moe_ep")
    ]
    tp, pp, dp, moe_tp, ep = sizes
    if _count(line, f"{prefix}attention_dp_size") is None:
        dp = max(1, moe_tp * ep // tp)  # the experts' GPUs are all there are
    workers = _count(line, f"{prefix}num_workers") or 1
    return Pool(
        parallelism=_parallelism(tp, pp, dp, moe_tp, ep, is_public=is_public),
        num_instances=workers,
        batch_size=_count(line, f"{prefix}batch_size"),
    )


def _parallelism(
    tp: int, pp: int, dp: int, moe_tp: int, ep: int, *, is_public: bool
) -> Parallelism:
    """Degrees of one instance, the exports' products undone (see the module)."""
    if is_public and moe_tp == ep > 1 and tp * dp == moe_tp * ep:
        tp, dp = (1, ep) if tp == 1 else (ep, 1)
    elif is_public and moe_tp == 1 and tp == dp > 1 and ep == tp * dp:
        dp, ep = 1, tp
    if ep == 1 and moe_tp == dp > NODE_GPUS:
        ep = dp  # experts are never cut across nodes
    if ep == 1 and moe_tp == tp > 2 * NODE_GPUS:
        raise InputError(
            "configuration", f"of {tp} GPUs in several instances", "those of each"
        )
    return Parallelism(tp=tp, pp=pp, attention_dp=dp, ep=ep)


def _count(line: Mapping[str, str], key: str) -> int | None:
    value = _number(line, key)
    return None if value is None else int(value)


def _number(line: Mapping[str, str], key: str) -> float | None:
    try:
        value = float(line.get(key) or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
