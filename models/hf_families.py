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
        "qwen3_next",
        "recurrent_gemma",
        "rwkv",
        "zamba2",
    }
)
HYBRID_KEYS = (
    "full_attention_interval",
    "hybrid_override_pattern",
    "linear_num_value_heads",
    "ssm_cfg",
)
SLIDING = frozenset({"sliding_attention", "chunked_attention"})
QK_NORM_TYPES = frozenset(
    {"qwen3", "qwen3_moe", "gemma3", "gemma3_text", "glm4_moe", "olmo2", "minimax_m2"}
)
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
