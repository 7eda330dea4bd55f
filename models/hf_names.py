"""Which catalogue model a Hugging Face repository is, and in what number format.

Steps
    1. The repository name in lower case, without its owner, is a catalogue name.
    2. `catalog/llm_aliases.yaml` lists repositories with other names.
    3. Words for the training stage (Instruct, Chat, Base, ...) do not change shapes.
    4. A number-format suffix (FP8, NVFP4, AWQ, ...) on a model known without it means
       the catalogue's variant of that name, or else the whole model but its embeddings
       and LM head in that format, with the owner's kind of scales: see `FORMATS`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from clusters.fields import InputError, spec
from clusters.serde import read_mapping

_ALIASES = Path(__file__).parent / "catalog" / "llm_aliases.yaml"
_STAGES = ("-instruct", "-chat", "-base", "-it", "-hf", "-v0.1", "-thinking")

_FP8_BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}
_FP8_TENSORS = {"quant_method": "modelopt", "quant_algo": "FP8"}
_NVFP4 = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
_WITH_FP8_CACHE = {"kv_cache_quant_algo": "FP8"}
_INT4 = {"quant_method": "awq", "bits": 4, "group_size": 128}
_INT8 = {"quant_method": "gptq", "bits": 8, "group_size": 128}
_UNQUANTISED: dict[str, Any] = {}

FORMATS: Mapping[str, Mapping[str, Any]] = {
    "-fp8": _FP8_BLOCKS,
    "-fp8-dynamic": _FP8_TENSORS,
    "-nvfp4": _NVFP4,
    "-fp4": _NVFP4,
    "-awq": _INT4,
    "-awq-int4": _INT4,
    "-gptq-int4": _INT4,
    "-int4": _INT4,
    "-w4a16": _INT4,
    "-gptq-int8": _INT8,
    "-bf16": _UNQUANTISED,
}
"""`quantization_config` a suffix of a repository name stands for."""
_SAME_FORMAT = {"-fp4": "-nvfp4", "-fp8-dynamic": "-fp8"}
OWNERS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "nvidia": {
        "-fp8": {**_FP8_TENSORS, **_WITH_FP8_CACHE},
        "-nvfp4": {**_NVFP4, **_WITH_FP8_CACHE},
        "-fp4": {**_NVFP4, **_WITH_FP8_CACHE},
    },
    "meta-llama": {"-fp8": _FP8_TENSORS},
    "neuralmagic": {"-fp8": _FP8_TENSORS},
    "redhatai": {"-fp8": _FP8_TENSORS},
}
"""Owners whose suffixes mean something else: scales a tensor, fp8 KV cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A catalogue model, and the number format to read it in."""

    name: str = spec("Name in the catalogue.")
    suffix: str | None = spec("Suffix that changes its format.", default=None)
    owner: str = spec("Owner of the repository, if named.", default="")

    @property
    def quantization(self) -> Mapping[str, Any]:
        """The `quantization_config` the suffix stands for."""
        assert self.suffix is not None
        return OWNERS.get(self.owner, FORMATS).get(self.suffix, FORMATS[self.suffix])


def find_model(text: str, names: Collection[str]) -> KnownModel | None:
    """The catalogue model among `names` that a repository id means, or None."""
    owner, _, repository = text.lower().rpartition("/")
    found = _plain_name(repository, names)
    if found is not None:
        return KnownModel(name=found)
    for suffix in sorted(FORMATS, key=len, reverse=True):
        found = _plain_name(repository.removesuffix(suffix), names)
        if not repository.endswith(suffix) or found is None:
            continue
        variant = found + _SAME_FORMAT.get(suffix, suffix)
        if variant in names:  # its publisher's own choice of parts
            return KnownModel(name=variant)
        return KnownModel(name=found, suffix=suffix, owner=owner)
    return None


def _plain_name(repository: str, names: Collection[str]) -> str | None:
    """Steps 1 to 3."""
    for stage in ("", *_STAGES):
        name = repository.removesuffix(stage)
        name = aliases().get(name, name)
        if repository.endswith(stage) and name in names:
            return name
    return None


@cache
def aliases() -> dict[str, str]:
    """Repositories, in lower case and without owner, by catalogue name they mean."""
    by_name = read_mapping(_ALIASES)
    found: dict[str, str] = {}
    for name, repositories in by_name.items():
        for repository in repositories:
            if repository in found:
                raise InputError(name, repository, "one model only", file=str(_ALIASES))
            found[repository] = name
    return found
