"""Fit files: the fitted operators of one engine on one GPU system, with evidence.

A file ``models/fits/SYSTEM/ENGINE.json`` holds, per operator kind and number format,
the coefficients of `models.latency.operators` and what they rest on. It states the
peaks the coefficients are relative to, so they carry over to a GPU with other peaks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from clusters.fields import InputError, check_fields, spec
from clusters.links import LinkKind
from clusters.mapping import fields_to_mapping
from clusters.serde import read_mapping
from models.latency.operators.attention import AttentionModel
from models.latency.operators.collective import Collective, CollectiveModel
from models.latency.operators.elementwise import ElementwiseModel
from models.latency.operators.gemm import GemmModel
from models.latency.operators.latent import LatentModel
from models.latency.operators.moe import MoeModel
from models.latency.operators.surface import Surface

FITS = Path(__file__).parent.parent / "fits"
ENGINES = ("vllm", "sglang", "trtllm")

OperatorModel = GemmModel | AttentionModel | LatentModel | MoeModel | CollectiveModel
_MODELS: dict[str, type[OperatorModel]] = {
    "gemm": GemmModel,
    "prefill_attention": AttentionModel,
    "decode_attention": AttentionModel,
    "latent_prefill_attention": AttentionModel,
    "latent_decode_attention": AttentionModel,
    "latent_prefill_block": LatentModel,
    "latent_decode_block": LatentModel,
    "latent_absorbed": GemmModel,
    "moe": MoeModel,
    **dict.fromkeys(Collective, CollectiveModel),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a fit rests on and how far off it is."""

    rows_used: int = spec("Rows fitted.", unit="rows", ge=1)
    rows_discarded: int = spec("Rows left out.", unit="rows", ge=0, default=0)
    discard_reason: str = spec("Why, empty when none.", default="")
    borrowed_from: str = spec(
        "Engine or system whose kernel stands in, empty: its own.", default=""
    )
    median_error_frac: float = spec("Of the fitted rows.", unit="1", ge=0)
    p90_error_frac: float = spec("Of the fitted rows.", unit="1", ge=0)
    held_out_median_error_frac: float | None = spec(
        "Of shapes that a second fit did not see, None: all rows have one shape.",
        unit="1",
        ge=0,
    )
    held_out_p90_error_frac: float | None = spec(
        "Of shapes that a second fit did not see, None: all rows have one shape.",
        unit="1",
        ge=0,
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def errors_text(self) -> tuple[str, str, str, str]:
        """Median and 90th percentile, then both on unseen shapes, in per cent."""
        return (
            _percent(self.median_error_frac),
            _percent(self.p90_error_frac),
            _percent(self.held_out_median_error_frac),
            _percent(self.held_out_p90_error_frac),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSource:
    """Where the measurements behind a fit file come from."""

    package: str = spec("Package or publication.")
    version: str = spec("Its version.")
    licence: str = spec("Its licence.")
    engine_version: str = spec("Version of the engine measured.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedOperator:
    """One operator's model and the evidence for it."""

    model: OperatorModel = spec("Coefficients.")
    evidence: Evidence = spec("Rows and errors.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFit:
    """Everything fitted for one engine on one GPU system."""

    system: str = spec("GPU type that was measured.")
    engine: str = spec("Serving engine.")
    source: FitSource = spec("Where the measurements come from.")
    architecture: str = spec("Microarchitecture of the GPU, e.g. hopper.")
    memory_bytes_per_s: float = spec("Its memory peak.", unit="bytes/s", gt=0)
    flops_per_s: Mapping[str, float] = spec("Its dense peaks by number format.")
    elementwise: ElementwiseModel = spec("Norms, activations and launches.")
    eager_call_ms: float = spec(
        "Host time of an operator called outside a CUDA graph, 0: not measured.",
        unit="ms",
        ge=0,
        default=0.0,
    )
    operators: Mapping[str, Mapping[str, FittedOperator]] = spec(
        "Fits by operator kind, then by variant."
    )
    discarded: Mapping[str, str] = spec(
        "Tables left out, as kind/variant, with the reason.", default_factory=dict
    )
    step_median_error_frac: float | None = spec(
        "Median error of whole steps of models not fitted.", unit="1", default=None
    )
    step_p90_error_frac: float | None = spec(
        "Their 90th percentile.", unit="1", default=None
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def variants(self, kind: str) -> dict[str, OperatorModel]:
        """Models of one operator kind by variant."""
        return {key: op.model for key, op in self.operators.get(kind, {}).items()}

    def to_json(self) -> dict[str, object]:
        """Plain form for a file."""
        return {
            "system": self.system,
            "engine": self.engine,
            "source": fields_to_mapping(self.source),
            "architecture": self.architecture,
            "memory_bytes_per_s": self.memory_bytes_per_s,
            "flops_per_s": dict(self.flops_per_s),
            "step_median_error_frac": self.step_median_error_frac,
            "step_p90_error_frac": self.step_p90_error_frac,
            "eager_call_ms": self.eager_call_ms,
            "discarded": dict(self.discarded),
            "elementwise": fields_to_mapping(self.elementwise),
            "operators": {
                kind: {key: _operator_json(op) for key, op in variants.items()}
                for kind, variants in self.operators.items()
            },
        }

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], *, file: str | None = None
    ) -> "EngineFit":
        """Reverse of `to_json`.

        Raises
        ------
        InputError
            On a missing or unknown key.
        """
        try:
            plain = {
                key: value
                for key, value in data.items()
                if key not in ("source", "elementwise", "operators")
            }
            return cls(
                source=FitSource(**data["source"]),
                elementwise=ElementwiseModel(**data["elementwise"]),
                operators={
                    kind: {
                        key: _operator_from(kind, entry)
                        for key, entry in variants.items()
                    }
                    for kind, variants in data["operators"].items()
                },
                **plain,
            )
        except (KeyError, TypeError) as error:
            raise InputError(
                "fit", str(error), "the keys of a fit file", file=file
            ) from None


@cache
def load_fit(system: str, engine: str) -> EngineFit:
    """The shipped fit of `engine` on `system`.

    Raises
    ------
    InputError
        When there is none.
    """
    path = FITS / system / f"{engine}.json"
    return EngineFit.from_json(read_mapping(path), file=str(path))


@cache
def shipped_systems(engine: str) -> tuple[str, ...]:
    """Systems with a shipped fit of `engine`, sorted."""
    return tuple(sorted(path.parent.name for path in FITS.glob(f"*/{engine}.json")))


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100.0 * share:.1f} %"


def _operator_json(operator: FittedOperator) -> dict[str, object]:
    model = operator.model
    plain: dict[str, object]
    if isinstance(model, CollectiveModel):
        plain = {
            "fabric": model.fabric,
            "kind": str(model.kind),
            "link_bytes_per_s": model.link_bytes_per_s,
            "alpha_ms": model.alpha_ms,
        }
    else:
        plain = {"floor_ms": model.floor_ms}
    return {
        **plain,
        "surface": model.surface.to_json(),
        "evidence": fields_to_mapping(operator.evidence),
    }


def _operator_from(kind: str, entry: Mapping[str, Any]) -> FittedOperator:
    plain: dict[str, Any] = {
        key: LinkKind(value) if key == "kind" else value
        for key, value in entry.items()
        if key not in ("surface", "evidence")
    }
    if _MODELS[kind] is CollectiveModel:
        plain["op"] = Collective(kind)
    return FittedOperator(
        model=_MODELS[kind](surface=Surface.from_json(entry["surface"]), **plain),
        evidence=Evidence(**entry["evidence"]),
    )
