"""How a serving engine forms the steps of a replica, and the limits on one."""

from dataclasses import dataclass
from enum import StrEnum

from clusters.fields import InputError, check_fields, spec
from planner.simulator.control import DecodeAdmission, PromptOrder


class Batching(StrEnum):
    """How an engine forms the steps of a replica.

    `PREFILL_FIRST` runs whole prompts in steps of their own whenever there are any
    (vLLM V0); `CHUNKED` lets prompt chunks ride in the steps of the decodes under one
    token budget (Sarathi-Serve, vLLM V1); `PREFILL_FIRST_CHUNKED` cuts prompts to the
    budget too, in steps without decodes (SGLang). `ORCA` puts whole prompts into the
    steps of the decodes, with the KV cache of the whole output reserved;
    `REQUEST_LEVEL` admits a batch when the one before has ended (FasterTransformer).
    """

    PREFILL_FIRST = "prefill_first"
    PREFILL_FIRST_CHUNKED = "prefill_first_chunked"
    CHUNKED = "chunked"
    ORCA = "orca"
    REQUEST_LEVEL = "request_level"

    @property
    def mixes_decodes(self) -> bool:
        """Whether a step may hold prompt tokens and decodes."""
        return self in (Batching.CHUNKED, Batching.ORCA)

    @property
    def cuts_prompts(self) -> bool:
        """Whether a prompt may be prefilled over several steps."""
        return self in (Batching.CHUNKED, Batching.PREFILL_FIRST_CHUNKED)

    @property
    def reserves_output(self) -> bool:
        """Whether it needs the blocks of the whole output from the start."""
        return self in (Batching.ORCA, Batching.REQUEST_LEVEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How a serving engine forms a step, and the limits on one."""

    policy: Batching = spec("Batching policy.", default=Batching.PREFILL_FIRST)
    max_batch_tokens: int = spec(
        "Token budget of a step: its prompt tokens and, where a step holds both, a "
        "token for each decode. A prompt that is not cut may exceed it alone.",
        unit="tokens",
        gt=0,
        default=8192,
    )
    max_num_seqs: int = spec(
        "Requests resident on a decoding replica, and prompts of one prefill step.",
        unit="requests",
        gt=0,
        default=256,
    )
    max_step_context_tokens: int | None = spec(
        "Context tokens of one decode step; requests beyond take turns. None: any.",
        unit="tokens",
        gt=0,
        default=None,
    )
    chunk_tile_tokens: int = spec(
        "GPU tile: a step in which the budget cuts a prompt has a multiple of this "
        "many tokens. 1: no rounding.",
        unit="tokens",
        gt=0,
        default=1,
    )
    max_chunk_tokens: int | None = spec(
        "Tokens of one prompt in one chunked step. None: the budget alone.",
        unit="tokens",
        gt=0,
        default=None,
    )
    max_partial_prompts: int | None = spec(
        "Prompts that may be half prefilled at a time. None: any number.",
        unit="requests",
        gt=0,
        default=None,
    )
    max_step_prompts: int | None = spec(
        "Prompts that one step has tokens of. None: as many as max_num_seqs.",
        unit="requests",
        gt=0,
        default=None,
    )
    has_chunks_in_turn: bool = spec(
        "The next chunk of a prompt waits until the one before has left the pipeline "
        "(Sarathi, vLLM V0); else its chunks follow each other through the stages.",
        default=False,
    )
    is_output_reserved: bool = spec(
        "Blocks of the whole output are taken at admission, so nobody is preempted "
        "(TensorRT-LLM's no-evict); orca and request_level always do.",
        default=False,
    )
    reserved_output_tokens: int | None = spec(
        "Output tokens reserved for a request, its max_tokens; a longer output has its "
        "own. None: the true output, as when requests ask for just what they get.",
        unit="tokens",
        gt=0,
        default=None,
    )
    is_batch_padded: bool = spec(
        "Request level: prompts are computed at the length of the longest, ended "
        "requests to the end of the batch.",
        default=False,
    )
    prompt_order: PromptOrder = spec(
        "Order of the waiting prompts of a window.", default=PromptOrder.FCFS
    )
    prompt_window: int = spec(
        "Prompts that are put in order at a time; the next ones follow after the last.",
        unit="requests",
        gt=0,
        default=16,
    )
    decode_admission: DecodeAdmission = spec(
        "When a prefilled request is fetched.", default=DecodeAdmission.GREEDY
    )
    graph_batch_sizes: tuple[int, ...] = spec(
        "Captured decode batches, rising: a step takes the time of the next one (CUDA "
        "graphs). Steps with prompts and larger batches run as they are.",
        unit="requests",
        default=(),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        sizes = self.graph_batch_sizes
        if any(size < 1 for size in sizes) or sorted(set(sizes)) != list(sizes):
            raise InputError("graph_batch_sizes", sizes, "rising numbers >= 1")
        if self.chunk_tile_tokens > self.max_batch_tokens:
            most = f"at most max_batch_tokens ({self.max_batch_tokens})"
            raise InputError("chunk_tile_tokens", self.chunk_tile_tokens, most)
        self._check_policy()

    def _check_policy(self) -> None:
        """Nothing is set that the policy would not read."""
        cuts = self.policy.cuts_prompts
        is_plain = self.policy is Batching.PREFILL_FIRST and not self.reserves_output
        is_request_level = self.policy is Batching.REQUEST_LEVEL
        for name, unused, is_read in (
            ("chunk_tile_tokens", 1, cuts),
            ("max_chunk_tokens", None, cuts),
            ("max_partial_prompts", None, cuts),
            ("has_chunks_in_turn", False, cuts),
            ("reserved_output_tokens", None, self.reserves_output),
            ("is_batch_padded", False, is_request_level),
            ("max_step_context_tokens", None, is_plain),
            ("decode_admission", DecodeAdmission.GREEDY, not self.is_capped),
            ("prompt_window", 16, self.prompt_order is not PromptOrder.FCFS),
        ):
            value = getattr(self, name)
            if value != unused and not is_read:
                raise InputError(
                    name, value, f"{unused} with this policy ({self.policy})"
                )

    @property
    def is_capped(self) -> bool:
        """Whether the context of a decode step has a limit."""
        return self.max_step_context_tokens is not None

    @property
    def reserves_output(self) -> bool:
        """Whether the blocks of the whole output are taken at admission."""
        return self.is_output_reserved or self.policy.reserves_output

    def step_batch(self, num_decodes: int) -> int:
        """The decode batch whose time a step of `num_decodes` takes."""
        for size in self.graph_batch_sizes:
            if size >= num_decodes:
                return size
        return num_decodes
