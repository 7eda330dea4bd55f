"""Presets of KV connectors: what each makes of the links that KV caches cross."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from clusters.fields import InputError, check_fields, spec
from planner.presets import check_preset, load_preset, preset_entries

_CATALOG = "kv_connectors.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class KvConnector:
    """How fast one connector sends KV caches."""

    name: str = spec("Name of the connector.")
    meaning: str = spec("What it stands for.")
    link_efficiency_frac: float = spec(
        "Share of a link's rate that it reaches.", unit="1", gt=0, le=1
    )
    setup_ms: float = spec("Fixed time of a transfer.", unit="ms", ge=0)
    block_ms: float = spec(
        "Time for the descriptors of one KV block.", unit="ms/block", ge=0
    )
    source: str = spec("Where the numbers come from.")
    date: str = spec("When the source was written, YYYY-MM.")

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def load(cls, name: str) -> Self:
        """The shipped preset of that name.

        Raises
        ------
        InputError
            Naming the nearest one, if there is none.
        """
        check_preset("connector", name, cls.names(), "a KV connector")
        return load_preset(cls, _CATALOG, name, {"name": name})

    @staticmethod
    def names() -> tuple[str, ...]:
        """Names of the shipped presets."""
        return tuple(preset_entries(_CATALOG))


def with_connector(engine: Mapping[str, Any]) -> dict[str, Any]:
    """Engine settings of a file, and what their connector says of those not given.

    Raises
    ------
    InputError
        On a connector without a preset.
    """
    settings = dict(engine)
    transfer = settings.get("kv_transfer")
    if not isinstance(transfer, Mapping) or transfer.get("connector") is None:
        return settings
    try:
        connector = KvConnector.load(str(transfer["connector"]))
    except InputError as error:
        raise error.within("kv_transfer") from None
    return {
        "kv_link_efficiency_frac": connector.link_efficiency_frac,
        "kv_setup_ms": connector.setup_ms,
        **settings,
        "kv_transfer": {"block_ms": connector.block_ms, **transfer},
    }
