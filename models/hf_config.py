"""Reading a Hugging Face ``config.json`` into an `LlmSpec`, without running any code.

Only plain keys are read. A model this package cannot cost (state-space hybrids, unknown
blocks) is refused with the key that says so, because a silently wrong KV size makes
every plan wrong. Extra layers for multi-token prediction are left out: they only run
when an engine speculates, which is not modelled.
"""

from collections.abc import Mapping

from clusters.fields import InputError
from clusters.gpu import Dtype
from models.hf_families import (
    DELTA_RULE_KEYS,
    DELTA_RULE_TYPES,
    GATED,
    GATED_ACTIVATIONS,
    HYBRID_KEYS,
    HYBRID_TYPES,
    LINEAR,
    QK_NORM_TYPES,
    SLIDING,
    SPARSE,
    TIED_BY_DEFAULT,
    UNGATED,
    WRAPPED_KEYS,
    WRAPPERS,
)
from models.hf_keys import (
    CONFIG_TYPES,
    Config,
    check_types,
    integer_of,
    text_of,
)
from models.hf_quantization import precision_of
from models.llm import (
    IndexerSpec,
    LinearAttentionSpec,
    LlmSpec,
    MlaSpec,
    MoeSpec,
)


def llm_from_config(config: object, *, name: str) -> LlmSpec:
    """Build an `LlmSpec` from the parsed contents of a ``config.json``.

    Raises
    ------
    InputError
        Naming the key that is missing, has a wrong type or an unsupported value.
    """
    text = _text_config(config)
    check_types(text, CONFIG_TYPES)
    _refuse_hybrids(text)
    hidden, heads = (
        integer_of(text, "hidden_size"),
        integer_of(text, "num_attention_heads"),
    )
    model_type = text_of(text, "model_type")
    return LlmSpec(
        name=name,
        num_layers=integer_of(text, "num_hidden_layers"),
        hidden=hidden,
        num_heads=heads,
        num_kv_heads=_num_kv_heads(text, heads),
        head_dim=integer_of(text, "head_dim", default=hidden // heads),
        intermediate=_intermediate(text, model_type, hidden),
        mlp_matrices=_mlp_matrices(text, model_type),
        vocab=integer_of(text, "vocab_size"),
        max_positions=integer_of(text, "max_position_embeddings", default=2048),
        tied_embeddings=bool(
            text.get("tie_word_embeddings", model_type in TIED_BY_DEFAULT)
        ),
        learned_positions=model_type in {"opt", "gpt2", "gpt_bigcode"},
        qk_norm=bool(text.get("use_qk_norm", model_type in QK_NORM_TYPES)),
        joint_qk_norm=text.get("qk_norm_type") == "per_layer",
        precision=precision_of(text),
        attention_gate=_has_gate(text, model_type),
        parallel_branches=_has_parallel_branches(text, model_type),
        mla=_mla(text),
        indexer=_indexer(text),
        linear=_linear(text, model_type),
        moe=_moe(text),
        windows=_windows(text, model_type),
    )


def _text_config(config: object) -> Config:
    """The language model's own section; multimodal wrappers hold it in a sub-key."""
    if not isinstance(config, Mapping):
        raise InputError("", config, "a JSON object with the keys of a HF config.json")
    for key in WRAPPERS:
        inner = config.get(key)
        if isinstance(inner, Mapping):
            outer = {k: config[k] for k in WRAPPED_KEYS if config.get(k) is not None}
            return {**outer, **inner}
    return config


def _refuse_hybrids(config: Config) -> None:
    expected = (
        "plain, latent, DeepSeek-sparse or gated delta-rule attention (other hybrids "
        "are not supported: what they keep for a request is not known here)"
    )
    model_type = text_of(config, "model_type")
    if model_type in HYBRID_TYPES:
        raise InputError("model_type", model_type, expected)
    known = {"full_attention", *SLIDING}
    if config.get("index_topk") is not None:
        known.add(SPARSE)
    refused: tuple[str, ...] = HYBRID_KEYS
    if model_type in DELTA_RULE_TYPES:
        known.add(LINEAR)
    else:
        refused += DELTA_RULE_KEYS
    for key in refused:
        if config.get(key) is not None:
            raise InputError(key, config[key], expected)
    if "shared" in (config.get("indexer_types") or ()):
        raise InputError("indexer_types", "shared", "an indexer in every layer")
    if 0 in (config.get("attn_type_list") or ()):
        raise InputError("attn_type_list", config["attn_type_list"], expected)
    unknown = set(config.get("layer_types") or ()) - known
    if unknown:
        raise InputError("layer_types", sorted(unknown), expected)


def _num_kv_heads(config: Config, heads: int) -> int:
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        return 1  # Falcon-7B and StarCoder: one K/V head, whatever the head count says
    return integer_of(config, "num_key_value_heads", default=heads)


def _intermediate(config: Config, model_type: str, hidden: int) -> int:
    default = None
    if model_type in {"bloom", "falcon", "gpt2", "gpt_bigcode"}:
        default = 4 * hidden
    elif config.get("moe_intermediate_size") is not None:  # no layer need be dense
        default = integer_of(config, "moe_intermediate_size")
    return integer_of(config, "intermediate_size", default=default)


def _mlp_matrices(config: Config, model_type: str) -> int:
    if model_type in UNGATED:
        return 2
    if model_type in GATED:
        return 3
    activation = config.get("hidden_act")
    if activation not in GATED_ACTIVATIONS:
        raise InputError(
            "hidden_act",
            activation,
            "a gated activation (silu) for a model_type this package does not know",
        )
    return 3


def _mla(config: Config) -> MlaSpec | None:
    if config.get("kv_lora_rank") is None:
        return None
    compressed = config.get("q_lora_rank") is not None
    return MlaSpec(
        q_lora_rank=integer_of(config, "q_lora_rank") if compressed else None,
        kv_lora_rank=integer_of(config, "kv_lora_rank"),
        qk_nope_head_dim=integer_of(config, "qk_nope_head_dim"),
        qk_rope_head_dim=integer_of(config, "qk_rope_head_dim"),
        v_head_dim=integer_of(config, "v_head_dim"),
    )


def _has_gate(config: Config, model_type: str) -> bool:
    return bool(config.get("attn_output_gate", model_type in DELTA_RULE_TYPES))


def _has_parallel_branches(config: Config, model_type: str) -> bool:
    """Falcon's layers; engines sum both branches before they reduce."""
    if model_type != "falcon":
        return False
    is_new = bool(config.get("new_decoder_architecture"))
    return is_new or bool(config.get("parallel_attn", True))


def _indexer(config: Config) -> IndexerSpec | None:
    """DeepSeek sparse attention; present in every layer."""
    if config.get("index_topk") is None:
        return None
    return IndexerSpec(
        num_heads=integer_of(config, "index_n_heads"),
        head_dim=integer_of(config, "index_head_dim"),
        selected_tokens=integer_of(config, "index_topk"),
    )


def _linear(config: Config, model_type: str) -> LinearAttentionSpec | None:
    if model_type not in DELTA_RULE_TYPES:
        return None
    return LinearAttentionSpec(
        layers=_linear_layers(config),
        num_key_heads=integer_of(config, "linear_num_key_heads"),
        num_value_heads=integer_of(config, "linear_num_value_heads"),
        key_head_dim=integer_of(config, "linear_key_head_dim"),
        value_head_dim=integer_of(config, "linear_value_head_dim"),
        conv_kernel=integer_of(config, "linear_conv_kernel_dim"),
        state_dtype=(
            Dtype.BF16 if config.get("mamba_ssm_dtype") == "bfloat16" else Dtype.FP32
        ),
    )


def _linear_layers(config: Config) -> tuple[int, ...]:
    num_layers = integer_of(config, "num_hidden_layers")
    kinds = config.get("layer_types")
    if kinds is None:
        full = integer_of(config, "full_attention_interval", default=4)
        return tuple(layer for layer in range(num_layers) if (layer + 1) % full)
    if len(kinds) != num_layers:
        raise InputError("layer_types", len(kinds), f"{num_layers} entries")
    return tuple(layer for layer, kind in enumerate(kinds) if kind == LINEAR)


def _moe(config: Config) -> MoeSpec | None:
    count_key = next(
        (
            key
            for key in ("n_routed_experts", "num_experts", "num_local_experts")
            if config.get(key) is not None
        ),
        None,
    )
    if count_key is None or config[count_key] in (0, 1):
        return None
    width_key = (
        "moe_intermediate_size"
        if config.get("moe_intermediate_size") is not None
        else "intermediate_size"
    )
    width = integer_of(config, width_key)
    shared = config.get("shared_expert_intermediate_size")
    if shared is None:
        shared = (config.get("n_shared_experts") or 0) * width
    return MoeSpec(
        num_experts=integer_of(config, count_key),
        experts_per_token=integer_of(config, "num_experts_per_tok"),
        expert_intermediate=width,
        shared_intermediate=shared,
        dense_layers=_dense_layers(config),
    )


def _dense_layers(config: Config) -> tuple[int, ...]:
    num_layers = integer_of(config, "num_hidden_layers")
    first = config.get("first_k_dense_replace") or 0
    every = config.get("moe_layer_freq") or 1
    step = config.get("decoder_sparse_step") or 1
    listed = set(config.get("mlp_only_layers") or ())
    if not isinstance(every, int):  # a list of 0/1 flags, one a layer
        listed |= {layer for layer, is_moe in enumerate(every) if not is_moe}
        every = 1
    return tuple(
        layer
        for layer in range(num_layers)
        if layer < first or layer in listed or layer % every or (layer + 1) % step
    )


def _windows(config: Config, model_type: str) -> tuple[int | None, ...]:
    """Window of each layer, () when attention is unbounded everywhere."""
    if (
        config.get("sliding_window") is None
        or config.get("use_sliding_window") is False
    ):
        return ()
    window = integer_of(config, "sliding_window")
    num_layers = integer_of(config, "num_hidden_layers")
    kinds = config.get("layer_types")
    if kinds is not None:
        sliding = [kind in SLIDING for kind in kinds]
    elif model_type in {"gemma2", "gpt_oss"}:  # sliding first, then alternating
        sliding = [layer % 2 == 0 for layer in range(num_layers)]
    elif model_type in {"gemma3", "gemma3_text", "cohere2"}:
        default = 6 if model_type.startswith("gemma3") else 4
        pattern = integer_of(config, "sliding_window_pattern", default=default)
        sliding = [(layer + 1) % pattern != 0 for layer in range(num_layers)]
    elif model_type.startswith("qwen2"):
        full = config.get("max_window_layers", 0)
        sliding = [layer >= full for layer in range(num_layers)]
    else:
        sliding = [True] * num_layers
    if len(sliding) != num_layers:
        raise InputError("layer_types", len(sliding), f"{num_layers} entries")
    return tuple(window if slides else None for slides in sliding)
