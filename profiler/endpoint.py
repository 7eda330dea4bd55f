"""Endpoint profiling: the steps of a live OpenAI-compatible server, from outside.

Idea
    Alone on the server, the time to the first token of a prompt is its prefill step.
    With c requests of the same length that start together, the gaps between tokens,
    once all have their first, are decode steps of a batch of c; the context grows by
    one token a step, so one run gives the slope over context as well.

Limits
    A gap includes the server's host work and the network, as users see it. A server
    that sends several tokens an event is told apart by the number of events.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clusters.fields import InputError, check_fields, spec
from models.latency.profile import WHOLE
from models.llm import LlmSpec
from models.profile_records import (
    Environment,
    Role,
    Spread,
    Status,
    StepPoint,
    StepRecord,
)
from profiler.streaming import Answer, Endpoint, EndpointError, complete
from profiler.timing import FloatArray, spread_of

Ask = Callable[[int, int], Answer]
"""(prompt tokens, answer tokens) -> answer."""

_TOKEN = 1000
"""Token number that prompts are made of, varied so that no prefix is shared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """What a server is asked."""

    prompt_tokens: tuple[int, ...] = spec(
        "Prompt lengths, one at a time.", default=(64, 256, 1024, 2048, 4096)
    )
    concurrencies: tuple[int, ...] = spec(
        "Requests that decode together.", default=(1, 4, 16, 64)
    )
    contexts: tuple[int, ...] = spec(
        "Prompt lengths of the decodes.", default=(128, 2048)
    )
    answer_tokens: int = spec("Length of answers.", unit="tokens", ge=4, default=64)
    num_repeats: int = spec("Times a prompt is asked.", unit="1", ge=1, default=5)
    num_tries: int = spec("Tries before a point fails.", unit="tries", ge=1, default=3)

    def __post_init__(self) -> None:
        check_fields(self)


def profile_endpoint(
    endpoint: Endpoint,
    llm: LlmSpec,
    environment: Environment,
    *,
    tp: int = 1,
    settings: EndpointSettings | None = None,
    rng: np.random.Generator,
    progress: Callable[[str], None] = lambda _: None,
    keep: Callable[[StepRecord], None] = lambda _: None,
) -> tuple[StepRecord, ...]:
    """Records of the part ``whole``: prefill by length, decode by batch and context.

    A point that fails after all its tries is recorded with the server's words. `keep`
    gets every record before the next point starts.

    Raises
    ------
    InputError
        When not a single point could be measured: then the server is at fault.
    """
    settings = settings or EndpointSettings()
    run = _Run(endpoint, llm, environment, tp, settings, rng)
    records: list[StepRecord] = []
    for tokens in settings.prompt_tokens:
        progress(f"prefill of {tokens} tokens")
        records.append(run.prefill(tokens))
        keep(records[-1])
    for concurrency in settings.concurrencies:
        for context in settings.contexts:
            progress(f"decode of {concurrency} requests after {context} tokens")
            found = run.decode(concurrency, context)
            records += found
            for record in found:
                keep(record)
    if all(record.status is not Status.OK for record in records):
        raise InputError("endpoint", endpoint.url, f"an answer ({records[-1].note})")
    return tuple(records)


class _Run:
    """One measurement of a server."""

    def __init__(
        self,
        endpoint: Endpoint,
        llm: LlmSpec,
        environment: Environment,
        tp: int,
        settings: EndpointSettings,
        rng: np.random.Generator,
    ) -> None:
        self._endpoint, self._llm = endpoint, llm
        self._environment, self._tp = environment, tp
        self._settings, self._rng = settings, rng

    def prefill(self, tokens: int) -> StepRecord:
        """Time to the first token of a prompt that is alone."""
        times = []
        for _ in range(self._settings.num_repeats + 1):
            found = self._together(1, tokens, 1)
            if isinstance(found, EndpointError):
                return self._failed(StepPoint(new_tokens=(tokens,)), found)
            times.append(found[0].ttft_ms)
        # The first one may find the server cold.
        return self._record(StepPoint(new_tokens=(tokens,)), np.array(times[1:]))

    def decode(self, concurrency: int, context: int) -> list[StepRecord]:
        """Gaps while all decode together, early and late in the answer."""
        found = self._together(concurrency, context, self._settings.answer_tokens)
        if isinstance(found, EndpointError):
            kv = float(concurrency * context)
            point = StepPoint(num_decodes=concurrency, kv_tokens=kv)
            return [self._failed(point, found)]
        gaps = common_gaps_ms(found)
        if len(gaps) < 2:
            kv = float(concurrency * context)
            point = StepPoint(num_decodes=concurrency, kv_tokens=kv)
            problem = EndpointError("the answers did not overlap")
            return [self._failed(point, problem)]
        # The context grows during the answer: two halves are two points.
        half = len(gaps) // 2
        records = []
        for first, last in ((0, half), (half, len(gaps))):
            steps = gaps[first:last]
            mean_context = context + 1.0 + (first + last) / 2.0
            point = StepPoint(
                num_decodes=concurrency, kv_tokens=concurrency * mean_context
            )
            records.append(self._record(point, steps))
        return records

    def _together(
        self, concurrency: int, tokens: int, answer_tokens: int
    ) -> list[Answer] | EndpointError:
        """Ask `concurrency` times at once, again from the start if one fails."""
        problem = EndpointError("never asked")
        for _ in range(self._settings.num_tries):
            try:
                return self._ask_all(concurrency, tokens, answer_tokens)
            except EndpointError as error:
                problem = error
        return problem

    def _ask_all(
        self, concurrency: int, tokens: int, answer_tokens: int
    ) -> list[Answer]:
        prompts = [
            (_TOKEN + self._rng.integers(0, _TOKEN, size=tokens)).tolist()
            for _ in range(concurrency)
        ]
        answers: list[Answer | EndpointError] = []

        def ask(prompt: list[int]) -> None:
            try:
                answers.append(
                    complete(self._endpoint, prompt, max_tokens=answer_tokens)
                )
            except EndpointError as error:
                answers.append(error)

        threads = [
            threading.Thread(target=ask, args=(p,), daemon=True) for p in prompts
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            # `complete` ends by itself; the limit here is a second line of defence.
            thread.join(2.0 * self._endpoint.answer_limit_s)
        failures = [a for a in answers if isinstance(a, EndpointError)]
        if failures:
            raise failures[0]
        good = [a for a in answers if isinstance(a, Answer)]
        if len(good) < concurrency:
            raise EndpointError(f"{concurrency - len(good)} answers never came")
        return good

    def _record(self, point: StepPoint, times: FloatArray) -> StepRecord:
        return self._base(point, Status.OK, spread_of(times), "")

    def _failed(self, point: StepPoint, error: EndpointError) -> StepRecord:
        return self._base(point, Status.NOT_MEASURED, None, str(error))

    def _base(
        self, point: StepPoint, status: Status, step: Spread | None, note: str
    ) -> StepRecord:
        return StepRecord(
            environment=self._environment,
            llm=self._llm,
            tp=self._tp,
            part=WHOLE,
            dtype="served",
            backend=self._environment.engine,
            point=point,
            role=Role.FIT,
            status=status,
            note=note,
            step=step,
        )


def common_gaps_ms(answers: Sequence[Answer]) -> FloatArray:
    """Time per token while every answer was under way, averaged over the answers.

    Shape (steps,): the gaps after the last first token and before the first end.
    """
    begin = max(answer.token_ms[0] for answer in answers)
    end = min(answer.token_ms[-1] for answer in answers)
    rows = []
    for answer in answers:
        times = np.array(answer.token_ms)
        gaps = np.diff(times)
        rows.append(gaps[(times[:-1] >= begin) & (times[1:] <= end)])
    shortest = min((len(row) for row in rows), default=0)
    if not shortest:
        return np.empty(0)
    gaps_ms: FloatArray = np.stack([row[:shortest] for row in rows]).mean(axis=0)
    return gaps_ms
