"""Streaming client: one completion of an OpenAI-compatible server, token by token.

Every wait has a limit: connecting, each read, and the whole answer (a watchdog closes
the connection, so that a server which trickles bytes cannot hold it open).
"""

import http.client
import json
import socket
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from clusters.fields import InputError, check_fields, spec
from clusters.units import MS_PER_S

_DATA = b"data:"
_DONE = b"[DONE]"


class EndpointError(Exception):
    """The server did not answer as it should; the message is one line that says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible server and the model it serves."""

    url: str = spec("Base URL, e.g. http://localhost:8000/v1.")
    model: str = spec("Name of the model there.")
    api_key: str | None = spec("Bearer token, if it wants one.", default=None)
    read_limit_s: float = spec("Longest wait for bytes.", unit="s", gt=0, default=30.0)
    answer_limit_s: float = spec(
        "Longest wait for a whole answer.", unit="s", gt=0, default=120.0
    )

    def __post_init__(self) -> None:
        check_fields(self)
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError("url", self.url, "http://HOST:PORT/v1 or https://...")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """When the tokens of one answer came."""

    sent_ms: float = spec("When it was asked.", unit="ms")
    token_ms: tuple[float, ...] = spec("When each token came.", unit="ms")
    prompt_tokens: int | None = spec(
        "Prompt length the server counted.", unit="tokens", default=None
    )

    @property
    def ttft_ms(self) -> float:
        """Time to the first token."""
        return self.token_ms[0] - self.sent_ms


def complete(endpoint: Endpoint, prompt: object, *, max_tokens: int) -> Answer:
    """Ask for `max_tokens` tokens, no fewer, and note when each comes.

    Raises
    ------
    EndpointError
        When the server cannot be reached, answers with an error, stalls, or stops
        before the end.
    """
    connection = _connect(endpoint)
    # Kept here: the connection hands its socket over to the response.
    connected = connection.sock
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        # Wakes a read that is under way, which closing alone does not.
        _shut_down(connected)

    watchdog = threading.Timer(endpoint.answer_limit_s, expire)
    watchdog.daemon = True
    watchdog.start()
    try:
        return _ask(connection, endpoint, prompt, max_tokens)
    except EndpointError:
        if expired.is_set():
            limit = f"{endpoint.answer_limit_s:g} s"
            raise EndpointError(f"{endpoint.url}: no whole answer in {limit}") from None
        raise
    except TimeoutError:
        limit = f"{endpoint.read_limit_s:g} s"
        raise EndpointError(f"{endpoint.url}: nothing came for {limit}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if expired.is_set():
            limit = f"{endpoint.answer_limit_s:g} s"
            raise EndpointError(f"{endpoint.url}: no whole answer in {limit}") from None
        why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise EndpointError(f"{endpoint.url}: {why}") from None
    finally:
        watchdog.cancel()
        connection.close()


def _connect(endpoint: Endpoint) -> http.client.HTTPConnection:
    parts = urlsplit(endpoint.url)
    assert parts.hostname is not None
    kind = (
        http.client.HTTPSConnection
        if parts.scheme == "https"
        else http.client.HTTPConnection
    )
    connection = kind(parts.hostname, parts.port, timeout=endpoint.read_limit_s)
    try:
        connection.connect()
    except OSError as error:
        why = f"{type(error).__name__}: {error}"
        raise EndpointError(f"{endpoint.url}: {why}") from None
    return connection


def _ask(
    connection: http.client.HTTPConnection,
    endpoint: Endpoint,
    prompt: object,
    max_tokens: int,
) -> Answer:
    body = {
        "model": endpoint.model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "min_tokens": max_tokens,
        "ignore_eos": True,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"Content-Type": "application/json"}
    if endpoint.api_key:
        headers["Authorization"] = f"Bearer {endpoint.api_key}"
    path = urlsplit(endpoint.url).path.rstrip("/") + "/completions"
    sent = now_ms()
    connection.request("POST", path, json.dumps(body), headers)
    response = connection.getresponse()
    if response.status != http.HTTPStatus.OK:
        text = response.read(200).decode("utf-8", "replace").strip()
        raise EndpointError(f"{endpoint.url}: status {response.status}: {text}")
    times, prompt_tokens, is_done = _read_events(response)
    if len(times) < max_tokens and not is_done:
        got = f"{len(times)} of {max_tokens} tokens"
        raise EndpointError(f"{endpoint.url}: closed after {got}")
    if not times:
        raise EndpointError(f"{endpoint.url}: an answer without tokens")
    return Answer(sent_ms=sent, token_ms=tuple(times), prompt_tokens=prompt_tokens)


def _read_events(
    response: http.client.HTTPResponse,
) -> tuple[list[float], int | None, bool]:
    """Times of the tokens, the prompt length if told, and whether it ended."""
    times: list[float] = []
    prompt_tokens = None
    while True:
        line = response.readline()
        if not line:
            return times, prompt_tokens, False
        if not line.startswith(_DATA):
            continue
        data = line[len(_DATA) :].strip()
        if data == _DONE:
            return times, prompt_tokens, True
        event = json.loads(data)
        if "error" in event:
            raise EndpointError(f"the server says: {event['error']}")
        if event.get("choices"):
            times.append(now_ms())
        usage = event.get("usage")
        if usage:
            prompt_tokens = usage.get("prompt_tokens", prompt_tokens)


def now_ms() -> float:
    """The host's clock, in ms."""
    return time.perf_counter() * MS_PER_S


def _shut_down(connected: socket.socket) -> None:
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:  # already closed by the other side
        return
