"""A row of the file of measured runs, for the tests of what reads it."""

import importlib
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "accuracy"))

silicon_rows: Any = importlib.import_module("silicon_rows")

PUBLIC = (
    "source_file=2026-03-25.csv; model=M; silicon_concurrency=64; "
    "measured=2026-04-05T01:02:03Z; wip=False; image=vllm/vllm-openai:v0.18.0"
)
LINE = {
    "id": "1",
    "source": PUBLIC,
    "backend": "vllm",
    "backend_version": "0.18.0",
    "model_path": "meta-llama/Llama-3.1-70B",
    "system": "h200_sxm",
    "mode": "agg",
    "isl": "1024",
    "osl": "1024",
    "gemm_quant_mode": "fp8",
    "moe_quant_mode": "",
    "batch_size": "64.0",
    "tp_size": "4.0",
    "pp_size": "1.0",
    "attention_dp_size": "1.0",
    "moe_tp_size": "4.0",
    "moe_ep_size": "1.0",
    "measured_ttft_ms": "250.0",
    "measured_tpot_ms": "20.0",
    "aiconfigurator_ttft_ms": "200.0",
    "aiconfigurator_tpot_ms": "25.0",
}


def row_of(**columns: str) -> Any:
    """A row of the file that differs from the usual one in these columns."""
    return silicon_rows._row({**LINE, **columns})
