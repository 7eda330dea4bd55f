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
        folder = self.systems / "data" / self.system / kind / self.engine
        held = sorted(
            (path for path in folder.glob(f"*/{table}.parquet")),
            key=lambda path: _order(path.parent.name),
        )
        if not held:
            return None
        wanted = [
            p for p in held if _order(p.parent.name) <= _order(self.engine_version)
        ]
        return pd.read_parquet((wanted or held)[-1])

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
