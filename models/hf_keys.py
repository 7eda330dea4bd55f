"""Typed access to the keys of a Hugging Face ``config.json``."""

from collections.abc import Mapping
from typing import Any

from clusters.fields import InputError
from models.hf_families import ALIASES

Config = Mapping[str, Any]
Types = Mapping[str, tuple[type, ...]]

_MAX_LAYERS = 10_000
_MAX_INTEGER = 2_000_000_000
"""No real model comes near; a typo must not make the reader work for minutes."""
_WORDS = {
    Mapping: "a JSON object",
    bool: "true or false",
    int: "a whole number",
    list: "a list",
    str: "text",
}

# Keys that are not read one number at a time; absent and null are always fine.
CONFIG_TYPES: Types = {
    "attn_output_gate": (bool,),
    "attn_type_list": (list,),
    "decoder_sparse_step": (int,),
    "dtype": (str,),
    "first_k_dense_replace": (int,),
    "hidden_act": (str,),
    "indexer_types": (list,),
    "layer_types": (list,),
    "mamba_ssm_dtype": (str,),
    "max_window_layers": (int,),
    "mlp_only_layers": (list,),
    "moe_layer_freq": (int, list),
    "n_shared_experts": (int,),
    "quantization_config": (Mapping,),
    "shared_expert_intermediate_size": (int,),
    "torch_dtype": (str,),
}
QUANTIZATION_TYPES: Types = {
    "config_groups": (Mapping,),
    "exclude_modules": (list,),
    "ignore": (list,),
    "modules_to_not_convert": (list,),
    "quant_method": (str,),
    "quantization": (Mapping,),
}
# Where quantisation tools list the modules they leave alone.
SKIP_KEYS = ("exclude_modules", "ignore", "modules_to_not_convert")


def check_types(config: Config, types: Types, *, where: str = "") -> None:
    """Refuse a key of `types` that is present with another type.

    Raises
    ------
    InputError
        Naming the first such key, below `where`.
    """
    for key, allowed in types.items():
        value = config.get(key)
        if value is not None and not isinstance(value, allowed):
            expected = " or ".join(_WORDS[kind] for kind in allowed)
            raise InputError(f"{where}{key}", value, expected)


def integer_of(config: Config, key: str, *, default: int | None = None) -> int:
    """A whole number >= 1 under `key` or one of its aliases.

    Raises
    ------
    InputError
        When it is missing and has no default, or is something else.
    """
    value = _find(config, key)
    if value is None:
        if default is None:
            raise InputError(key, None, "this key in the config (it is missing)")
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(key, value, "a whole number >= 1")
    most = _MAX_LAYERS if key == "num_hidden_layers" else _MAX_INTEGER
    if value > most:
        raise InputError(key, value, f"a whole number <= {most}")
    return value


def text_of(config: Config, key: str) -> str:
    """The text under `key`.

    Raises
    ------
    InputError
        When it is missing or not text.
    """
    value = config.get(key)
    if not isinstance(value, str):
        raise InputError(key, value, "this key in the config, as text")
    return value


def _find(config: Config, key: str) -> Any:
    for candidate in (key, *ALIASES.get(key, ())):
        if config.get(candidate) is not None:
            return config[candidate]
    return None
