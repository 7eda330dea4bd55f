"""What families of Hugging Face configs do differently, as tables by `model_type`."""

UNGATED = frozenset(
    {"opt", "bloom", "falcon", "gpt2", "gpt_neox", "gpt_bigcode", "starcoder2", "phi"}
)

GATED_ACTIVATIONS = frozenset({"silu", "swish", "swiglu"})
GATED = frozenset({"gemma", "gemma2", "gemma3", "gemma3_text"})
TIED_BY_DEFAULT = frozenset(
    {"opt", "bloom", "falcon", "gpt2", "gemma", "gemma2", "gemma3", "gemma3_text"}
)
HYBRID_TYPES = frozenset(
    {
        "bamba",
        "falcon_h1",
        "falcon_mamba",
        "granitemoehybrid",
        "jamba",
        "kimi_linear",
        "lfm2",
        "mamba",
        "mamba2",
        "minimax",
        "nemotron_h",
        "recurrent_gemma",
        "rwkv",
        "zamba2",
    }
)
HYBRID_KEYS = (
    "compress_ratios",
    "hybrid_layer_pattern",
    "hybrid_override_pattern",
    "interleave_moe_layer_step",
    "linear_attn_config",
    "sparse_attention_config",
    "ssm_cfg",
)
# Gated delta-rule layers between layers of gated softmax attention.
DELTA_RULE_TYPES = frozenset(
    {
        "qwen3_5",
        "qwen3_5_moe",
        "qwen3_5_moe_text",
        "qwen3_5_text",
        "qwen3_next",
    }
)
DELTA_RULE_KEYS = ("full_attention_interval", "linear_num_value_heads")
LINEAR = "linear_attention"
SPARSE = "deepseek_sparse_attention"
SLIDING = frozenset({"sliding_attention", "chunked_attention"})
QK_NORM_TYPES = DELTA_RULE_TYPES | frozenset(
    {"qwen3", "qwen3_moe", "gemma3", "gemma3_text", "glm4_moe", "olmo2", "minimax_m2"}
)
# Keys of a multimodal wrapper that speak for its language model too.
WRAPPED_KEYS = ("torch_dtype", "dtype", "quantization_config", "tie_word_embeddings")
WRAPPERS = ("text_config", "llm_config", "language_config")
# Keys older families use for the same number; the first that is present counts.
ALIASES: dict[str, tuple[str, ...]] = {
    "num_hidden_layers": ("n_layer", "num_layers"),
    "hidden_size": ("n_embed", "n_embd"),
    "num_attention_heads": ("n_head",),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv"),
    "intermediate_size": ("ffn_dim", "n_inner", "ffn_hidden_size"),
    "max_position_embeddings": ("n_positions", "seq_length", "max_seq_len"),
}
