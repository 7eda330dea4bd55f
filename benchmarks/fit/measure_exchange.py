"""Taking tokens to their experts and back, from table rows.

Engines have two kernels: one for throughput, which sends a token once to every GPU
that holds one of its experts, and one of low latency for decode, which sends a copy
for every expert. Between nodes the first sends a token once to every node, from where
it goes on by NVLink; that gain is in its curves, one a number of GPUs. A row is 8 bits
with a scale a block of 128 on the way there, unless a column says otherwise, and 16 on
the way back. What was measured is put in bytes that leave a GPU or stay on it, so that
all widths, formats and numbers of experts make one curve.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from measure_links import fit_collective
from surfaces import FEWEST_EXCHANGE_ROWS, Fitted, floats
from tables import Tables

from clusters.links import LinkKind
from models.communication import ExpertRouting
from models.latency.operators.collective import Collective
from models.latency.operators.surface import FloatArray

_ROW_BYTES = {"default": 1.03125, "fp8": 1.03125, "bfloat16": 2.0, "nvfp4": 0.5625}
"""Bytes of an element on the way to the experts, scales included."""
_BACK_BYTES = 2.0
_NORMAL_SMS = 20
"""Streaming multiprocessors the throughput kernel takes (the engines' default)."""
_US = 1e-3
_PHASES = {
    "dispatch": Collective.EXPERT_DISPATCH,
    "combine": Collective.EXPERT_COMBINE,
}
BULK, LOW_LATENCY = "bulk", "low_latency"


def fit_exchanges(
    tables: Tables, link: tuple[LinkKind, float], rng: np.random.Generator
) -> dict[str, Fitted]:
    """Models by operation, in variants FABRIC/KERNEL."""
    rows = pd.concat([frame for frame in _tables(tables)] or [_NO_ROWS])
    network = (LinkKind.NETWORK, tables.node()["inter_node_bw"])
    found: dict[str, Fitted] = {}
    for phase, op in _PHASES.items():
        found[str(op)] = _fit_phase(
            rows[rows.phase == phase], op, tables.system, (link, network), rng
        )
    return found


def _fit_phase(
    rows: pd.DataFrame,
    op: Collective,
    system: str,
    links: tuple[tuple[LinkKind, float], tuple[LinkKind, float]],
    rng: np.random.Generator,
) -> Fitted:
    for (across, kernel), used in rows.groupby(["across", "kernel"]):
        if len(used) < FEWEST_EXCHANGE_ROWS:
            continue
        fabric = f"{system}_network" if across else system
        for _, operator in fit_collective(
            used, op, fabric=fabric, link=links[int(across)], rng=rng
        ):
            yield f"{fabric}/{kernel}", operator


_NO_ROWS = pd.DataFrame(
    columns=[
        "phase",
        "kernel",
        "across",
        "kernel_source",
        "num_gpus",
        "num_bytes",
        "latency",
    ]
)


def _tables(tables: Tables) -> Iterator[pd.DataFrame]:
    """Every table of the engine in one form; `num_bytes` of each GPU's buffer."""
    per_node = int(tables.node()["num_gpus_per_node"])
    own = tables.read("comm", "moe_a2a_perf")
    one_sided = tables.read("comm", "trtllm_alltoall_perf")
    if one_sided is not None:
        yield _one_sided(one_sided)
    elif own is not None:
        yield _a2a(own)
    for mode, kernel in (("normal", BULK), ("ll", LOW_LATENCY)):
        name = f"wideep_deepep_{mode}_perf"
        newest, *older = tables.read_all("comm", name) or [_NO_ROWS]
        if len(newest):
            yield from _deepep(newest, mode, kernel, per_node)
        for table in older:  # several nodes were measured with an older version only
            across = table[table.node_num > 1]
            yield from _deepep(across, mode, kernel, per_node)


def _a2a(table: pd.DataFrame) -> pd.DataFrame:
    used = table[table.comm_backend.str.contains("_ht|_ll")]
    # In 4 bits the kernels take as long as in 16: bytes do not explain those.
    used = used[used.comm_dtype.isin(("default", "fp8", "bfloat16"))]
    back = (used.phase == "combine").to_numpy()
    element = np.where(back, _BACK_BYTES, floats(used.comm_dtype.map(_ROW_BYTES)))
    low = used.comm_backend.str.endswith("_ll")
    copies = np.where(
        low, floats(used.topk), _visited(floats(used.ep_size), floats(used.topk))
    )
    return pd.DataFrame(
        {
            "phase": used.phase,
            "kernel": np.where(low, LOW_LATENCY, BULK),
            "across": False,
            "kernel_source": used.kernel_source,
            "num_gpus": used.ep_size,
            "num_bytes": floats(used.num_tokens)
            * copies
            * floats(used.hidden_size)
            * element,
            "latency": _US * floats(used.latency),
        }
    )


def _one_sided(table: pd.DataFrame) -> pd.DataFrame:
    """TensorRT-LLM's kernel over NVLink between trays: one for both phases."""
    used = table[table.kernel_source == "NVLinkOneSided"]
    phase = used.op_name.str.removeprefix("alltoall_")
    element = np.where(
        phase == "combine", _BACK_BYTES, floats(used.moe_dtype.map(_ROW_BYTES))
    )
    copies = _visited(floats(used.moe_ep_size), floats(used.topk))
    return pd.DataFrame(
        {
            "phase": phase,
            "kernel": BULK,
            "across": False,
            "kernel_source": used.kernel_source,
            "num_gpus": used.moe_ep_size,
            "num_bytes": floats(used.num_tokens)
            * copies
            * floats(used.hidden_size)
            * element,
            "latency": used.latency,
        }
    )


def _deepep(
    table: pd.DataFrame, mode: str, kernel: str, per_node: int
) -> Iterator[pd.DataFrame]:
    """SGLang's measurements of DeepEP on one node and, in older files, on several."""
    used = table
    if mode == "normal":
        used = table[
            (table.dispatch_sms == _NORMAL_SMS) & (table.combine_sms == _NORMAL_SMS)
        ]
    nodes, topk = floats(used.node_num), floats(used.num_topk)
    across = nodes > 1
    copies = topk if mode == "ll" else _visited(nodes * per_node, topk)
    for phase in _PHASES:
        name = f"{phase}_avg_t_us" if mode == "ll" else f"{phase}_transmit_us"
        element = _BACK_BYTES if phase == "combine" else _ROW_BYTES["fp8"]
        yield pd.DataFrame(
            {
                "phase": phase,
                "kernel": kernel,
                "across": across,
                "kernel_source": used.kernel_source,
                "num_gpus": nodes * per_node,
                "num_bytes": floats(used.num_token)
                * copies
                * floats(used.hidden_size)
                * element,
                "latency": _US * floats(used[name]),
            }
        )


def _visited(places: FloatArray, topk: FloatArray) -> FloatArray:
    """GPUs (or nodes) that hold an expert of a token, on average."""
    pairs = zip(places.tolist(), topk.tolist(), strict=True)
    return np.asarray(
        [
            ExpertRouting(
                num_gpus=int(n), expert_gpus=int(n), experts_per_token=int(k)
            ).gpus_visited
            for n, k in pairs
        ]
    )
