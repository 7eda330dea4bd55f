"""ShareGPT conversations: lengths without times.

A JSON array of ``{"id", "conversations": [{"from": "human", "value": "..."}, ...]}``.
As other serving benchmarks do, the first turn is the prompt and the second the answer.
Without a tokenizer a length is a quarter of the characters.
"""

import json
import math
import warnings
from collections.abc import Iterator

from clusters.fields import InputError
from planner.workload.traces.rows import TraceRow, TraceWarning

_CHARS_PER_TOKEN = 4
_MAX_ITEM_CHARS = 100_000_000


def sharegpt_rows(lines: Iterator[str], *, file: str) -> Iterator[TraceRow]:
    """First turns of conversations, all at time 0.

    Warns
    -----
    TraceWarning
        That lengths are estimates, and how many conversations had no answer.
    """
    num_skipped = 0
    for line, item in _array_items(lines, file):
        turns = _first_turns(item, f"{file}:{line}")
        if turns is None:
            num_skipped += 1
            continue
        prompt, answer = (math.ceil(len(text) / _CHARS_PER_TOKEN) for text in turns)
        yield line, 0.0, prompt, answer, None
    skipped = f"; {num_skipped} conversations without an answer were dropped"
    warnings.warn(
        f"{file}: lengths are estimated as characters / {_CHARS_PER_TOKEN}"
        + (skipped if num_skipped else ""),
        TraceWarning,
        stacklevel=5,
    )


def _first_turns(item: object, place: str) -> tuple[str, str] | None:
    """Prompt and answer of a conversation; None if it has no answer."""
    turns = item.get("conversations") if isinstance(item, dict) else None
    if not isinstance(turns, list):
        expected = "an object with a list 'conversations'"
        raise InputError("", item, expected, file=place)
    if len(turns) < 2:
        return None
    prompt, answer = (
        turn.get("value") if isinstance(turn, dict) else None for turn in turns[:2]
    )
    if not (isinstance(prompt, str) and isinstance(answer, str)):
        raise InputError("conversations", turns[:2], "turns with a 'value'", file=place)
    return prompt, answer


def _array_items(pieces: Iterator[str], file: str) -> Iterator[tuple[int, object]]:
    """Items of a JSON array with the line they start on, not holding the whole file.

    Text is gathered until it holds one whole item. Trying again only when the text has
    doubled keeps that linear, also for an item that spans many pieces.
    """
    decoder = json.JSONDecoder()
    # `line` is the line of the first character of `text`.
    text, line, tried_chars = "", 1, 0
    is_open = is_at_end = False
    while True:
        rest = text.lstrip(" \t\r\n," if is_open else None)
        line += text.count("\n", 0, len(text) - len(rest))
        text = rest
        place = f"{file}:{line}"
        if not is_open and text:
            if not text.startswith("["):
                raise InputError("", text[:60], "a JSON array", file=place)
            text, is_open = text[1:], True
            continue
        if text.startswith("]"):
            return
        if text and (is_at_end or len(text) >= 2 * tried_chars):
            try:
                item, end = decoder.raw_decode(text)
            except (ValueError, RecursionError):
                tried_chars = len(text)
            else:
                yield line, item
                line += text.count("\n", 0, end)
                text, tried_chars = text[end:], 0
                continue
        if is_at_end or len(text) > _MAX_ITEM_CHARS:
            expected = "a JSON array of conversations (malformed or cut off here)"
            raise InputError("", text[:60] or "end of file", expected, file=place)
        added = next(pieces, "")
        is_at_end = not added
        text += added
