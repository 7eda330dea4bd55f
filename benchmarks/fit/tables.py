"""Reading the operator tables of the package aiconfigurator-core.

The package holds one Parquet file per system, operator kind, engine and version:
``systems/data/SYSTEM/KIND/ENGINE/VERSION/TABLE.parquet``. Latencies are in ms.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

PACKAGE, PACKAGE_VERSION, LICENCE = "aiconfigurator-core", "0.12.0", "Apache-2.0"
ENGINES = ("vllm", "sglang", "trtllm")


@dataclass(frozen=True)
class Tables:
    """The tables of one system and engine."""

    systems: Path
    system: str
    engine: str

    @property
    def engine_version(self) -> str:
        """The version the package serves by default, else the newest it holds."""
        listed = yaml.safe_load((self.systems / "query_versions.yaml").read_text())
        chosen = {**listed["defaults"], **listed["overrides"].get(self.system, {})}
        return str(chosen[self.engine]["current"])

    def read(self, kind: str, table: str) -> pd.DataFrame | None:
        """Rows of a table in the default version, else the newest before it."""
        held = self._held(kind, table)
        return pd.read_parquet(held[0]) if held else None

    def read_all(self, kind: str, table: str) -> list[pd.DataFrame]:
        """Rows of a table in every version up to the default, the newest first."""
        return [pd.read_parquet(path) for path in self._held(kind, table)]

    def _held(self, kind: str, table: str) -> list[Path]:
        """Files of a table, newest first; later than the default only if alone."""
        folder = self.systems / "data" / self.system / kind / self.engine
        held = sorted(
            (path for path in folder.glob(f"*/{table}.parquet")),
            key=lambda path: _order(path.parent.name),
            reverse=True,
        )
        wanted = [
            p for p in held if _order(p.parent.name) <= _order(self.engine_version)
        ]
        return wanted or held

    def nccl(self) -> pd.DataFrame | None:
        """Rows of the collectives of NCCL in the version the system names."""
        text = (self.systems / f"{self.system}.yaml").read_text()
        version = yaml.safe_load(text)["misc"].get("nccl_version")
        folder = self.systems / "data" / self.system / "comm" / "nccl"
        path = folder / str(version) / "nccl_perf.parquet"
        return pd.read_parquet(path) if path.exists() else None

    def peaks(self) -> dict[str, float]:
        """Datasheet rates of the system as the package states them."""
        gpu = yaml.safe_load((self.systems / f"{self.system}.yaml").read_text())["gpu"]
        return {key: float(value) for key, value in gpu.items() if value is not None}

    def node(self) -> dict[str, float]:
        """Link rates of the system's node as the package states them."""
        text = (self.systems / f"{self.system}.yaml").read_text()
        return dict(yaml.safe_load(text)["node"])


def _order(version: str) -> tuple[int, ...]:
    """Sort key: numbers in order, with rc and post releases in between."""
    digits = "".join(c if c.isdigit() else " " for c in version)
    return tuple(int(part) for part in digits.split())
