"""LlmSpec: the facts about an LLM that decide what it costs to run.

Read from a plain Hugging Face ``config.json`` (see `models.hf_config`), or from the
shipped catalogue of such files by name. Matrix shapes follow in `models.flops`, bytes
in `models.memory`.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

from clusters.fields import InputError, check_fields, spec
from clusters.gpu import Dtype
from clusters.mapping import fields_to_mapping, from_fields, nearest
from clusters.serde import read_mapping
from models.hf_names import KnownModel, find_model

CATALOG = Path(__file__).parent / "catalog" / "llms"


def bytes_of(dtype: Dtype) -> float:
    """Bytes of one element of a number format."""
    wide = {Dtype.FP32: 4.0, Dtype.TF32: 4.0, Dtype.FP16: 2.0, Dtype.BF16: 2.0}
    return wide.get(dtype, 0.5 if dtype is Dtype.FP4 else 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How a group of weight matrices is stored and multiplied."""

    bytes_per_weight: float = spec(
        "Stored bytes of one weight, scales included.", unit="bytes", gt=0
    )
    compute_dtype: Dtype = spec("Number format the tensor cores multiply in.")

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def plain(cls, dtype: Dtype) -> Self:
        """Unquantised weights: stored and multiplied in `dtype`."""
        return cls(bytes_per_weight=bytes_of(dtype), compute_dtype=dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Weight formats by part of the model, and the format of the KV cache."""

    attention: WeightFormat = spec("Attention projections.")
    mlp: WeightFormat = spec("Dense and shared-expert feed-forward matrices.")
    experts: WeightFormat = spec("Routed experts.")
    embedding: WeightFormat = spec("Embeddings, router and LM head.")
    kv: Dtype = spec("Number format of the KV cache.")
    attention_out: WeightFormat | None = spec(
        "Output projection of attention, None: as the other projections.", default=None
    )

    @property
    def out(self) -> WeightFormat:
        """Format of the output projection of attention."""
        return self.attention_out or self.attention

    @classmethod
    def uniform(cls, dtype: Dtype) -> Self:
        """One unquantised format for every part."""
        plain = WeightFormat.plain(dtype)
        return cls(attention=plain, mlp=plain, experts=plain, embedding=plain, kv=dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaSpec:
    """Multi-head latent attention (DeepSeek-V2): a shared latent replaces K and V."""

    q_lora_rank: int | None = spec(
        "Width of the compressed query; None: full-rank queries.",
        unit="1",
        ge=1,
        default=None,
    )
    kv_lora_rank: int = spec("Width of the cached latent.", unit="1", ge=1)
    qk_nope_head_dim: int = spec("Query/key width without positions.", unit="1", ge=1)
    qk_rope_head_dim: int = spec("Cached positional key width.", unit="1", ge=1)
    v_head_dim: int = spec("Value width of a head.", unit="1", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def cached_dim(self) -> int:
        """Elements cached per token and layer (replicated over tensor parallelism)."""
        return self.kv_lora_rank + self.qk_rope_head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexerSpec:
    """Sparse attention (DeepSeek-V3.2): a light scorer picks the tokens to attend to.

    Every token is scored against every cached one with a narrow key of its own; the
    attention proper then reads the best `selected_tokens` only. Nothing is dropped
    from the cache.
    """

    num_heads: int = spec("Scoring heads; they share one key.", unit="heads", ge=1)
    head_dim: int = spec("Width of a scoring head.", unit="1", ge=1)
    selected_tokens: int = spec("Tokens a query attends to.", unit="tokens", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttentionSpec:
    """Gated delta-rule attention (Qwen3-Next): a fixed-size state instead of a cache.

    A layer keeps one ``key_head_dim x value_head_dim`` matrix a value head, and the
    last inputs of a short convolution, whatever the context.
    """

    layers: tuple[int, ...] = spec("Layers that have it.")
    num_key_heads: int = spec("Query and key heads.", unit="heads", ge=1)
    num_value_heads: int = spec("Value heads, one state each.", unit="heads", ge=1)
    key_head_dim: int = spec("Width of a key.", unit="1", ge=1)
    value_head_dim: int = spec("Width of a value.", unit="1", ge=1)
    conv_kernel: int = spec("Tokens the convolution spans.", unit="tokens", ge=1)
    state_dtype: Dtype = spec("Number format of the state.", default=Dtype.FP32)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.layers:
            raise InputError("layers", self.layers, "at least one layer")
        if self.num_value_heads % self.num_key_heads:
            raise InputError(
                "num_value_heads",
                self.num_value_heads,
                f"a multiple of the {self.num_key_heads} key heads",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeSpec:
    """Mixture of experts: which layers, how many experts, how wide."""

    num_experts: int = spec("Routed experts of a layer.", unit="experts", ge=1)
    experts_per_token: int = spec("Experts a token visits.", unit="experts", ge=1)
    expert_intermediate: int = spec("Width of a routed expert.", unit="1", ge=1)
    shared_intermediate: int = spec(
        "Width of all shared experts together.", unit="1", ge=0, default=0
    )
    dense_layers: tuple[int, ...] = spec("Layers with a dense MLP.", default=())

    def __post_init__(self) -> None:
        check_fields(self)
        if self.experts_per_token > self.num_experts:
            raise InputError(
                "experts_per_token", self.experts_per_token, f"<= {self.num_experts}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmSpec:
    """Architecture of a decoder-only transformer.

    Examples
    --------
    >>> LlmSpec.load("opt-13b").num_layers
    40
    """

    name: str = spec("Catalogue name, or the name of the config's folder.")
    num_layers: int = spec("Transformer layers.", unit="layers", ge=1)
    hidden: int = spec("Width of the residual stream.", unit="1", ge=1)
    num_heads: int = spec("Query heads.", unit="heads", ge=1)
    num_kv_heads: int = spec("Key/value heads.", unit="heads", ge=1)
    head_dim: int = spec("Width of a head.", unit="1", ge=1)
    intermediate: int = spec("Width of the dense MLP.", unit="1", ge=1)
    mlp_matrices: int = spec("3 when gated (SwiGLU), else 2.", unit="1", ge=2, le=3)
    vocab: int = spec("Vocabulary size.", unit="tokens", ge=1)
    max_positions: int = spec("Longest context.", unit="tokens", ge=1)
    tied_embeddings: bool = spec("LM head shares the embedding.", default=False)
    learned_positions: bool = spec("Has a position table (OPT).", default=False)
    qk_norm: bool = spec("Normalises queries and keys per head.", default=False)
    joint_qk_norm: bool = spec(
        "Normalises them over all heads, which tensor parallelism splits.",
        default=False,
    )
    precision: Precision = spec("Weight formats by part and KV format.")
    attention_gate: bool = spec("Attention outputs are gated per head.", default=False)
    parallel_branches: bool = spec(
        "Attention and MLP of a layer read the same input, and tensor parallelism "
        "reduces their sum once (Falcon).",
        default=False,
    )
    mla: MlaSpec | None = spec("Latent attention, if any.", default=None)
    indexer: IndexerSpec | None = spec("Sparse attention, if any.", default=None)
    linear: LinearAttentionSpec | None = spec("Linear attention, if any.", default=None)
    moe: MoeSpec | None = spec("Mixture of experts, if any.", default=None)
    windows: tuple[int | None, ...] = spec(
        "Attention window of each layer, None: unbounded; () when no layer has one.",
        unit="tokens",
        default=(),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                "num_kv_heads",
                self.num_kv_heads,
                f"a divisor of the {self.num_heads} query heads",
            )
        if self.windows and len(self.windows) != self.num_layers:
            raise InputError(
                "windows", len(self.windows), f"{self.num_layers} entries, one a layer"
            )
        if any(window is not None and window < 1 for window in self.windows):
            raise InputError("windows", self.windows, "windows >= 1 token")
        if self.linear and len(set(self.linear.layers)) >= self.num_layers:
            raise InputError(
                "linear.layers",
                len(self.linear.layers),
                f"fewer than the {self.num_layers} layers: some keep a KV cache",
            )
        listed = {
            "dense_layers": self.moe.dense_layers if self.moe else (),
            "linear.layers": self.linear.layers if self.linear else (),
        }
        for key, layers in listed.items():
            if any(not 0 <= layer < self.num_layers for layer in layers):
                raise InputError(key, layers, f"layers from 0 to {self.num_layers - 1}")

    @classmethod
    def load(cls, name_or_path: str | Path) -> "LlmSpec":
        """Read a model by name, by Hugging Face repository, or from a ``config.json``.

        Names are those of the catalogue; a repository such as ``openai/gpt-oss-120b``
        or ``nvidia/Qwen3-32B-NVFP4`` is looked up by `models.hf_names`. A path is that
        of a ``config.json`` or of its folder.

        Raises
        ------
        InputError
            Unknown name (with the nearest ones), missing file or key, or an
            architecture this package cannot cost.
        """
        text = str(name_or_path)
        if text.endswith(".json") or Path(text, "config.json").exists():
            return _read(_config_file(Path(text)))
        known = find_model(text, catalog_names())
        if known is None:
            hint = nearest(text.rsplit("/", 1)[-1].lower(), catalog_names())
            raise InputError(
                "llm", text, f"a catalogue name ({hint}) or the path of a config.json"
            )
        if known.suffix is None:
            return _load_catalog(known.name)
        return _load_variant(text.rsplit("/", 1)[-1].lower(), known)

    @classmethod
    def from_file_form(cls, data: object, *, file: str | None = None) -> "LlmSpec":
        """A catalogue name, a path relative to `file`, or a mapping of all fields."""
        if not isinstance(data, str):
            return from_fields(cls, data, file=file)
        beside = Path(file).parent / data if file else Path(data)
        try:
            return cls.load(beside if beside.exists() else data)
        except InputError as error:
            if error.key != "llm":
                raise
            # The caller knows the key: the text itself is what cannot be used.
            raise InputError("", error.value, error.expected) from None

    def to_file_form(self) -> object:
        """Its name if it is the catalogue's model, otherwise all fields."""
        return self.name if self.is_catalog_model() else fields_to_mapping(self)

    def is_catalog_model(self, name: str | None = None) -> bool:
        """Whether it is the catalogue's model of its name (or of `name`), unchanged."""
        if name not in (None, self.name) or self.name not in catalog_names():
            return False
        return self == _load_catalog(self.name)

    def with_kv_dtype(self, dtype: Dtype | str) -> Self:
        """The same model with its KV cache kept in `dtype`."""
        return replace(self, precision=replace(self.precision, kv=Dtype(dtype)))

    def window(self, layer: int) -> int | None:
        """Attention window of a layer in tokens, None when unbounded."""
        return self.windows[layer] if self.windows else None

    def is_linear_layer(self, layer: int) -> bool:
        """Whether a layer keeps a state instead of a KV cache."""
        return self.linear is not None and layer in self.linear.layers

    def is_moe_layer(self, layer: int) -> bool:
        """Whether a layer routes tokens to experts."""
        return self.moe is not None and layer not in self.moe.dense_layers


@cache
def catalog_names() -> tuple[str, ...]:
    """Names of the shipped models, sorted."""
    return tuple(sorted(path.stem for path in CATALOG.glob("*.json")))


@cache
def _load_catalog(name: str) -> LlmSpec:
    return _from_config(_catalog_config(name), CATALOG / f"{name}.json", name)


@cache
def _load_variant(name: str, known: KnownModel) -> LlmSpec:
    """A catalogue model in the number format its repository's suffix names."""
    config = {**_catalog_config(known.name), "quantization_config": known.quantization}
    return _from_config(config, CATALOG / f"{known.name}.json", name)


def _catalog_config(name: str) -> dict[str, Any]:
    """A catalogue file, over the one it names as its base."""
    config = read_mapping(CATALOG / f"{name}.json")
    base = config.pop("_base", None)
    return config if base is None else {**_catalog_config(base), **config}


def _read(path: Path) -> LlmSpec:
    name = path.parent.name if path.name == "config.json" else path.stem
    config = read_mapping(path)
    # Some tools leave the number formats in a file of their own beside the config.
    formats = path.parent / "hf_quant_config.json"
    if path.name == "config.json" and formats.exists():
        modelopt = {"quant_method": "modelopt", **read_mapping(formats)}
        config = {"quantization_config": modelopt, **config}
    return _from_config(config, path, name)


def _from_config(config: dict[str, Any], path: Path, name: str) -> LlmSpec:
    # Imported here because the parser builds this module's classes.
    from models.hf_config import llm_from_config

    try:
        return llm_from_config(config, name=name)
    except InputError as error:
        raise error.in_file(str(path)) from None


def _config_file(path: Path) -> Path:
    return path / "config.json" if path.is_dir() else path
