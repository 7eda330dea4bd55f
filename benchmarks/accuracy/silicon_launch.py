"""How the server of a measured run was launched: what its row does not say.

`silicon_launch.yaml` has the flags of the public harness as rules; runs of other
harnesses take the engine's defaults.
"""

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from silicon_rows import Row

from clusters.fields import check_fields, spec
from clusters.gpu import Dtype, GpuType
from clusters.mapping import from_mapping
from clusters.serde import read_mapping
from planner.engines import EnginePreset

RULES = Path(__file__).parent / "silicon_launch.yaml"
TOKEN_ROUNDING = 64
"""The harness rounds TensorRT-LLM's token budget up to a multiple of this."""
OWN_SIZE = re.compile(r"(?<![a-z0-9.])\d+(\.\d+)?b(?![a-z0-9])")
"""A number of parameters in a name, as 70b."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What a rule sets; None: nothing."""

    max_batch_tokens: int | None = spec("Token budget.", unit="tokens", default=None)
    batch_tokens_per_input: float | None = spec(
        "Token budget in nominal prompts.", unit="1", gt=0, default=None
    )
    covers_prompt_and_decodes: bool | None = spec(
        "The budget is at least a prompt and every decode.", default=None
    )
    memory_frac: float | None = spec("Memory fraction.", unit="1", default=None)
    kv: Dtype | None = spec("Format of the KV cache.", default=None)
    receive_steps: int | None = spec(
        "SGLang looks for new requests every so many decode steps.",
        unit="steps",
        ge=1,
        default=None,
    )
    wait_steps: int | None = spec(
        "TensorRT-LLM lets a prompt wait so many decode steps for others to join it.",
        unit="steps",
        ge=0,
        default=None,
    )
    timeout_steps: int | None = spec(
        "TensorRT-LLM lets prompts wait until every attention rank has one, or for so "
        "many decode steps since the last ones.",
        unit="steps",
        ge=0,
        default=None,
    )
    draft_tokens: int | None = spec(
        "Tokens drafted for each decode step.", unit="tokens", ge=0, default=None
    )
    prefill_graph_tokens: int | None = spec(
        "Steps with prompt tokens run captured pieces up to so many.",
        unit="tokens",
        ge=0,
        default=None,
    )
    spreads_experts: bool | None = spec(
        "Experts lie whole on the GPUs of a replica, whatever the row says.",
        default=None,
    )
    experts_of: str | None = spec(
        "Engine whose measured experts have the kernels of the backend named.",
        default=None,
    )
    experts_variant: str | None = spec(
        "Measured number format whose kernels the experts run.", default=None
    )
    max_requests: int | None = spec(
        "Requests resident at a time.", unit="requests", ge=1, default=None
    )
    max_graph_requests: int | None = spec(
        "Largest captured batch.", unit="requests", ge=1, default=None
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Flags):
    """Flags of the runs that meet every condition given."""

    engine: str = spec("Engine.")
    models: tuple[str, ...] = spec("Models.", default=())
    systems: tuple[str, ...] = spec("GPU systems.", default=())
    mode: str = spec("agg or disagg.", default="")
    weights: tuple[str, ...] = spec("Number formats of the weights.", default=())
    since: str = spec("First day.", default="")
    until: str = spec("Last day.", default="")
    concurrency_from: int = spec("Fewest clients.", unit="requests", default=0)
    concurrency_below: int | None = spec(
        "Fewer clients than this.", unit="requests", default=None
    )
    input_tokens: int | None = spec("Prompt.", unit="tokens", default=None)
    output_tokens: int | None = spec("Answer.", unit="tokens", default=None)
    tp: int | None = spec("GPUs of a replica.", unit="GPUs", default=None)
    tp_below: int | None = spec("Fewer GPUs than this.", unit="GPUs", default=None)
    versions: tuple[str, ...] = spec("Versions of the engine.", default=())
    images: tuple[str, ...] = spec("Tags of the container image.", default=())
    has_ranks: bool | None = spec(
        "Whether attention runs on data-parallel ranks.", default=None
    )
    has_ep: bool | None = spec("Whether experts are spread.", default=None)
    version_from: str = spec(
        "First version of the engine; one without numbers is none.", default=""
    )
    is_repeated: bool | None = spec("Whether a row repeats a public run.", default=None)

    def applies(self, row: Row, num_gpus: int, concurrency: int) -> bool:
        """Whether the run of `row` meets every condition."""
        # The day is unknown for some rows: they count as late.
        day = row.day or "9999"
        return (
            row.engine == self.engine
            and self.mode in ("", row.mode)
            and (not self.models or any(is_of(row.model, m) for m in self.models))
            and (not self.systems or row.system in self.systems)
            and (not self.weights or row.gemm_quant in self.weights)
            and (not self.since or day >= self.since)
            and (not self.until or day <= self.until)
            and concurrency >= self.concurrency_from
            and (self.concurrency_below is None or concurrency < self.concurrency_below)
            and self.input_tokens in (None, row.input_tokens)
            and self.output_tokens in (None, row.output_tokens)
            and self.tp in (None, num_gpus)
            and (self.tp_below is None or num_gpus < self.tp_below)
            and (not self.versions or row.version in self.versions)
            and numbers_of(self.version_from) <= numbers_of(row.version)
            and (not self.images or row.image in self.images)
            and self.has_ranks in (None, row.has_ranks)
            and self.has_ep in (None, row.has_ep)
            and self.is_repeated in (None, not row.is_public)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleFile:
    """The rules with their source."""

    source: str = spec("Where they were read.")
    date: str = spec("When.")
    rules: tuple[Rule, ...] = spec("In order; a later one overrides.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """An engine as it was launched."""

    preset: EnginePreset = spec("Its settings.")
    kv: Dtype = spec("Format of the KV cache.")
    hold_steps: float = spec(
        "Decode steps a prompt waits for others before it is looked at; prefill "
        "instances have none.",
        unit="steps",
        ge=0,
    )
    draft_tokens: int = spec("Tokens drafted for each decode step.", unit="tokens")
    poll_steps: float = spec(
        "Decode steps from one look at new requests to the next, 0: at every step.",
        unit="steps",
        ge=0,
    )
    prefill_graph_tokens: int = spec(
        "Steps with prompt tokens run captured pieces up to so many.", unit="tokens"
    )
    spreads_experts: bool = spec("Experts lie whole on the GPUs of a replica.")
    experts_of: str = spec("Engine whose measured experts it runs, empty: its own.")
    experts_variant: str = spec(
        "Measured number format whose kernels the experts run, empty: their own."
    )
    max_graph_requests: int | None = spec("Largest captured batch, None: the preset's.")

    @property
    def captured(self) -> tuple[int, ...]:
        """Captured batch sizes, rising."""
        sizes, most = self.preset.captured, self.max_graph_requests
        if most is None:
            return sizes
        return (*(size for size in sizes if size < most), most)


def launch_of(row: Row, concurrency: int) -> Launch:
    """How the server of `row` was launched, for so many clients of a replica."""
    assert row.pools is not None
    num_gpus = row.pools[-1].parallelism.num_gpus
    flags = Flags()
    for rule in _rules() if row.is_public_run else ():
        if rule.applies(row, num_gpus, concurrency):
            flags = _overridden(flags, rule)
    preset = EnginePreset.load(row.engine)
    tokens = flags.max_batch_tokens or preset.batch_tokens(GpuType.load(row.system))
    if flags.batch_tokens_per_input is not None:
        tokens = int(flags.batch_tokens_per_input * row.input_tokens)
    if flags.covers_prompt_and_decodes:
        verified = (1 + (flags.draft_tokens or 0)) * concurrency
        least = row.input_tokens + verified + 2 * TOKEN_ROUNDING - 1
        tokens = max(tokens, least // TOKEN_ROUNDING * TOKEN_ROUNDING)
    is_agg = row.mode == "agg"
    # Ranks whose prompts wait for others count steps whether or not one waits.
    poll_steps = (flags.receive_steps or 0) if not row.has_ranks else 0
    if row.has_ranks and flags.wait_steps is None:
        poll_steps = flags.timeout_steps or 0
    hold_steps = flags.wait_steps or 0
    return Launch(
        preset=replace(
            preset,
            max_batch_tokens=tokens,
            large_gpu_batch_tokens=None,
            memory_frac=flags.memory_frac or preset.memory_frac,
            max_num_seqs=flags.max_requests or preset.max_num_seqs,
        ),
        kv=flags.kv or Dtype.BF16,
        hold_steps=float(hold_steps) if is_agg else 0.0,
        poll_steps=float(poll_steps) if is_agg else 0.0,
        draft_tokens=flags.draft_tokens or 0,
        prefill_graph_tokens=flags.prefill_graph_tokens or 0,
        spreads_experts=bool(flags.spreads_experts),
        experts_of=flags.experts_of or "",
        experts_variant=flags.experts_variant or "",
        max_graph_requests=flags.max_graph_requests,
    )


def is_of(model: str, family: str) -> bool:
    """Whether a model is of a family: but for case and what follows a dash, its name.

    DeepSeek-R1-0528-FP4 is DeepSeek-R1. DeepSeek-V3.2 is not DeepSeek-V3, nor is a name
    that goes on to a size of its own, as DeepSeek-R1-Distill-Llama-70B.
    """
    name, own = f"{model}-".casefold(), f"{family}-".casefold()
    return name.startswith(own) and OWN_SIZE.search(name[len(own) :]) is None


def numbers_of(version: str) -> tuple[int, ...]:
    """Leading numbers of a version: 0.5.10 is later than 0.5.9.

    () of one that is no release (a nightly build), before every other.
    """
    release = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(int(n) for n in release.group(1).split(".")) if release else ()


def _overridden(flags: Flags, rule: Rule) -> Flags:
    given = {name: getattr(rule, name) for name in Flags.__dataclass_fields__}
    return replace(flags, **{k: v for k, v in given.items() if v is not None})


@cache
def _rules() -> tuple[Rule, ...]:
    data = read_mapping(RULES)
    return from_mapping(RuleFile, data, file=str(RULES)).rules
