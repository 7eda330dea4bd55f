"""Serving: an engine answers an open-loop trace in real time, prompts first.

The policy is the simulator's: waiting prompts are batched in order under a token budget
whenever there is a slot, otherwise all resident requests take a decode step together.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clusters.fields import InputError, check_fields, spec
from clusters.units import MS_PER_S
from profiler.engine import EngineLimits

FloatArray = NDArray[np.float64]

_NAP_S = 0.0005
"""Longest sleep while nothing is to be done: arrivals are met this closely."""


class ServingEngine(Protocol):
    """What `serve` needs of an engine."""

    @property
    def limits(self) -> EngineLimits:
        """Its sizes."""
        ...

    def prefill(
        self, slots: Sequence[int], token_ids: Sequence[Sequence[int]]
    ) -> list[int]:
        """First token of each prompt."""
        ...

    def decode(
        self, slots: Sequence[int], contexts: Sequence[int], tokens: Sequence[int]
    ) -> list[int]:
        """Next token of each request."""
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

    is_prefill: bool = spec("Prefill, or decode.")
    tokens: int = spec("Prompt tokens, or requests.", unit="1", ge=1)
    squares: float = spec("Sum of squared prompt lengths.", unit="token^2", ge=0)
    kv_tokens: int = spec("Tokens decodes attended to.", unit="tokens", ge=0)
    ms: float = spec("Duration, host work included.", unit="ms", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)


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
    rng: np.random.Generator,
    max_s: float = 120.0,
    now_s: Callable[[], float] = time.perf_counter,
) -> Served:
    """Serve a trace in real time; stops at `max_s` with what was answered.

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
        if not (run.prefill() or run.decode()):
            run.wait()
    return Served(
        requests=requests,
        first_token_ms=run.first_token_ms,
        finish_ms=run.finish_ms,
        steps=tuple(run.steps),
    )


class _Run:
    """State of one run: who waits, who is resident."""

    def __init__(
        self,
        engine: ServingEngine,
        requests: OpenLoop,
        rng: np.random.Generator,
        now_s: Callable[[], float],
    ) -> None:
        self._engine, self._requests, self._now_s = engine, requests, now_s
        self._prompts = [
            rng.integers(0, 256, size=n).tolist() for n in requests.input_tokens
        ]
        self._free = list(range(engine.limits.max_num_seqs))[::-1]
        self._next = 0
        self._waiting: list[int] = []
        self._resident: list[int] = []
        self._slot: dict[int, int] = {}
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
        """Requests that have arrived by now wait for their prefill."""
        now = self.elapsed_ms()
        arrivals = self._requests.arrival_ms
        while self._next < len(arrivals) and arrivals[self._next] <= now:
            self._waiting.append(self._next)
            self._next += 1

    def wait(self) -> None:
        """Sleep a little, at most until the next arrival."""
        due_ms = self._requests.arrival_ms[self._next] - self.elapsed_ms()
        time.sleep(min(max(due_ms / MS_PER_S, 0.0), _NAP_S))

    def prefill(self) -> bool:
        """Prefill the first prompts that fit the budget and the slots, if any."""
        chosen: list[int] = []
        tokens = 0
        while self._waiting and self._free:
            length = int(self._requests.input_tokens[self._waiting[0]])
            if chosen and tokens + length > self._engine.limits.max_batch_tokens:
                break
            request = self._waiting.pop(0)
            self._slot[request] = self._free.pop()
            chosen.append(request)
            tokens += length
        if not chosen:
            return False
        began = self.elapsed_ms()
        firsts = self._engine.prefill(
            [self._slot[r] for r in chosen], [self._prompts[r] for r in chosen]
        )
        ended = self.elapsed_ms()
        lengths = [len(self._prompts[r]) for r in chosen]
        self._log(began, ended, tokens, sum(n * n for n in lengths), 0)
        for request, token in zip(chosen, firsts, strict=True):
            self.first_token_ms[request] = ended
            self._token[request] = token
            self._context[request] = len(self._prompts[request])
            self._left[request] = int(self._requests.output_tokens[request]) - 1
            self._resident.append(request)
        self._release(ended)
        return True

    def decode(self) -> bool:
        """One decode step of everyone resident, if there is anyone."""
        if not self._resident:
            return False
        members = self._resident
        for request in members:
            self._context[request] += 1
        contexts = [self._context[r] for r in members]
        began = self.elapsed_ms()
        tokens = self._engine.decode(
            [self._slot[r] for r in members],
            contexts,
            [self._token[r] for r in members],
        )
        ended = self.elapsed_ms()
        self._log(began, ended, len(members), 0.0, sum(contexts))
        for request, token in zip(members, tokens, strict=True):
            self._token[request] = token
            self._left[request] -= 1
        self._release(ended)
        return True

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
        self, began: float, ended: float, tokens: int, squares: float, kv: int
    ) -> None:
        self.steps.append(
            ServedStep(
                is_prefill=kv == 0,
                tokens=tokens,
                squares=float(squares),
                kv_tokens=kv,
                ms=ended - began,
            )
        )
