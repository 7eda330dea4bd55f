"""Serving: an engine answers an open-loop trace in real time.

The policies are the simulator's. Prefill first: waiting prompts are batched in order
under a token budget whenever there is a slot, otherwise all resident requests take a
decode step together. Chunked: all residents decode in every step, and prompts, those
already begun before new ones, take what is left of the budget in chunks
(Sarathi-Serve).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clusters.fields import InputError, check_fields, spec
from clusters.units import MS_PER_S
from profiler.engine import Chunk, Decodes, EngineLimits

FloatArray = NDArray[np.float64]

_TOKENS = 256
"""Token numbers of the prompts: the first ones of any vocabulary."""
_NAP_S = 0.0005
"""Longest sleep while nothing is to be done: arrivals are met this closely."""


class ServingPolicy(StrEnum):
    """How the steps of an engine are formed, under the simulator's names."""

    PREFILL_FIRST = "prefill_first"
    CHUNKED = "chunked"


def budget_of(limits: EngineLimits, policy: ServingPolicy) -> int:
    """Tokens that a step of a policy may hold."""
    is_chunked = policy is ServingPolicy.CHUNKED
    return limits.chunk_budget_tokens if is_chunked else limits.max_batch_tokens


class ServingEngine(Protocol):
    """What `serve` needs of an engine."""

    @property
    def limits(self) -> EngineLimits:
        """Its sizes."""
        ...

    def step(
        self, chunks: Sequence[Chunk], decodes: Decodes
    ) -> tuple[list[int], list[int]]:
        """One step: the token after each chunk, and the next one of each decode."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenLoop:
    """Requests that arrive whatever the engine does.

    Attributes
    ----------
    arrival_ms
        Rising, shape ``(num_requests,)``.
    input_tokens, output_tokens
        At least 1 each, same shape.
    """

    arrival_ms: FloatArray
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.arrival_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedStep:
    """One step as it ran."""

    prompt_tokens: int = spec("Prompt tokens computed.", unit="tokens", ge=0)
    squares: float = spec(
        "Sum of L^2 + 2 L past over the chunks.", unit="token^2", ge=0
    )
    num_decodes: int = spec("Requests that decoded.", unit="requests", ge=0)
    kv_tokens: int = spec("Tokens the decodes attended to.", unit="tokens", ge=0)
    ms: float = spec("Duration, host work included.", unit="ms", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def kind(self) -> str:
        """``prefill``, ``decode`` or ``mixed``."""
        if self.prompt_tokens and self.num_decodes:
            return "mixed"
        return "prefill" if self.prompt_tokens else "decode"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Served:
    """When every request got its first and its last token.

    Attributes
    ----------
    first_token_ms, finish_ms
        On the clock of the arrivals, shape ``(num_requests,)``; NaN where the time
        limit came first.
    """

    requests: OpenLoop
    first_token_ms: FloatArray
    finish_ms: FloatArray
    steps: tuple[ServedStep, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every request was answered in time."""
        return bool(np.isfinite(self.finish_ms).all())

    @property
    def ttft_ms(self) -> FloatArray:
        """Time to the first token."""
        return self.first_token_ms - self.requests.arrival_ms

    @property
    def tpot_ms(self) -> FloatArray:
        """Mean gap between output tokens; NaN for answers of one token."""
        outputs = self.requests.output_tokens
        gaps = np.where(outputs > 1, outputs - 1, np.nan)
        found: FloatArray = (self.finish_ms - self.first_token_ms) / gaps
        return found


def serve(
    engine: ServingEngine,
    requests: OpenLoop,
    *,
    policy: ServingPolicy = ServingPolicy.PREFILL_FIRST,
    rng: np.random.Generator,
    max_s: float = 120.0,
    now_s: Callable[[], float] = time.perf_counter,
) -> Served:
    """Serve a trace in real time; stops at `max_s` with what was answered.

    Parameters
    ----------
    engine
        What runs the steps; its limits bound them.
    requests
        What arrives, and when.
    policy
        How steps are formed.
    rng
        Draws the tokens of the prompts.
    max_s
        Longest run.
    now_s
        The clock.

    Raises
    ------
    InputError
        When a request is longer than a slot of the engine.
    """
    totals = requests.input_tokens + requests.output_tokens
    longest, most = int(totals.max()), engine.limits.max_context_tokens
    if longest > most:
        raise InputError("requests", longest, f"at most {most} tokens each")
    run = _Run(engine, requests, rng, now_s)
    while run.num_left:
        if run.elapsed_ms() >= max_s * MS_PER_S:
            break
        run.admit()
        if not run.step(policy):
            run.wait()
    return Served(
        requests=requests,
        first_token_ms=run.first_token_ms,
        finish_ms=run.finish_ms,
        steps=tuple(run.steps),
    )


class _Run:
    """State of one run: who waits, who is half prefilled, who decodes."""

    def __init__(
        self,
        engine: ServingEngine,
        requests: OpenLoop,
        rng: np.random.Generator,
        now_s: Callable[[], float],
    ) -> None:
        self._engine, self._requests, self._now_s = engine, requests, now_s
        self._prompts = [
            rng.integers(0, _TOKENS, size=n) for n in requests.input_tokens
        ]
        self._free = list(range(engine.limits.max_num_seqs))[::-1]
        self._next = 0
        self._waiting: list[int] = []
        self._partial: list[int] = []
        self._resident: list[int] = []
        self._slot: dict[int, int] = {}
        self._cached: dict[int, int] = {}
        self._context: dict[int, int] = {}
        self._left: dict[int, int] = {}
        self._token: dict[int, int] = {}
        self.first_token_ms = np.full(len(requests), np.nan)
        self.finish_ms = np.full(len(requests), np.nan)
        self.num_left = len(requests)
        self.steps: list[ServedStep] = []
        self._start_s = now_s()

    def elapsed_ms(self) -> float:
        """Time since the start, in ms."""
        return (self._now_s() - self._start_s) * MS_PER_S

    def admit(self) -> None:
        """Requests whose time has come wait for their prefill."""
        arrivals = self._requests.arrival_ms
        now = self.elapsed_ms()
        while self._next < len(arrivals) and arrivals[self._next] <= now:
            self._waiting.append(self._next)
            self._next += 1

    def wait(self) -> None:
        """Sleep until the next arrival, or a moment."""
        due_ms = _NAP_S * MS_PER_S
        if self._next < len(self._requests):
            due_ms = self._requests.arrival_ms[self._next] - self.elapsed_ms()
        time.sleep(min(max(due_ms / MS_PER_S, 0.0), _NAP_S))

    def step(self, policy: ServingPolicy) -> bool:
        """Form the next step and run it; False when there is nothing to do."""
        budget = budget_of(self._engine.limits, policy)
        if policy is ServingPolicy.CHUNKED:
            chunks = self._chunks(budget - len(self._resident))
            return self._run(chunks, self._resident)
        whole = self._whole_prompts(budget)
        return self._run(whole, []) if whole else self._run([], self._resident)

    def _whole_prompts(self, budget: int) -> list[tuple[int, int]]:
        """The first prompts that fit the budget and the slots, each with its length."""
        found: list[tuple[int, int]] = []
        tokens = 0
        while self._waiting and self._free:
            length = len(self._prompts[self._waiting[0]])
            if found and tokens + length > budget:
                break
            found.append((self._take_waiting(), length))
            tokens += length
        return found

    def _chunks(self, left: int) -> list[tuple[int, int]]:
        """What the decodes left of the budget: prompts begun first, then new ones."""
        found: list[tuple[int, int]] = []
        begun = list(self._partial)
        while left > 0 and (begun or (self._waiting and self._free)):
            request = begun.pop(0) if begun else self._take_waiting()
            rest = len(self._prompts[request]) - self._cached[request]
            found.append((request, min(rest, left)))
            left -= found[-1][1]
        return found

    def _take_waiting(self) -> int:
        """The first that waits, now with a slot."""
        request = self._waiting.pop(0)
        self._slot[request] = self._free.pop()
        self._cached[request] = 0
        self._partial.append(request)
        return request

    def _run(self, chunks: list[tuple[int, int]], decodes: Sequence[int]) -> bool:
        """Run a step of these prompt tokens and decodes, if it is one."""
        if not chunks and not decodes:
            return False
        members = list(decodes)
        for request in members:
            self._context[request] += 1
        began = self.elapsed_ms()
        firsts, tokens = self._engine.step(
            [self._chunk(request, num) for request, num in chunks],
            Decodes(
                [self._slot[r] for r in members],
                [self._context[r] for r in members],
                [self._token[r] for r in members],
            ),
        )
        ended = self.elapsed_ms()
        self._log(chunks, members, ended - began)
        for request, token in zip(members, tokens, strict=True):
            self._token[request] = token
            self._left[request] -= 1
        for (request, num), token in zip(chunks, firsts, strict=True):
            self._end_chunk(request, num, token, ended)
        self._release(ended)
        return True

    def _chunk(self, request: int, num: int) -> Chunk:
        past = self._cached[request]
        ids = self._prompts[request][past : past + num]
        return Chunk(self._slot[request], past, ids)

    def _end_chunk(self, request: int, num: int, token: int, now_ms: float) -> None:
        """After its last chunk a prompt has its first token and decodes."""
        self._cached[request] += num
        if self._cached[request] < len(self._prompts[request]):
            return
        self._partial.remove(request)
        self.first_token_ms[request] = now_ms
        self._token[request] = token
        self._context[request] = len(self._prompts[request])
        self._left[request] = int(self._requests.output_tokens[request]) - 1
        self._resident.append(request)

    def _release(self, now_ms: float) -> None:
        """Requests with all their tokens leave their slots."""
        staying = []
        for request in self._resident:
            if self._left[request] > 0:
                staying.append(request)
                continue
            self.finish_ms[request] = now_ms
            self._free.append(self._slot.pop(request))
            self.num_left -= 1
        self._resident = staying

    def _log(
        self, chunks: list[tuple[int, int]], decodes: Sequence[int], ms: float
    ) -> None:
        self.steps.append(
            ServedStep(
                prompt_tokens=sum(num for _, num in chunks),
                squares=float(sum(n * (n + 2 * self._cached[r]) for r, n in chunks)),
                num_decodes=len(decodes),
                kv_tokens=sum(self._context[r] for r in decodes),
                ms=ms,
            )
        )
