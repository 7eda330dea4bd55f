"""Traces with prefix hashes, one JSON object a line: Mooncake and Bailian.

Mooncake (github.com/kvcache-ai/Mooncake, FAST 2025): ``timestamp`` in ms,
``input_length``, ``output_length``, ``hash_ids`` of 512-token blocks. Bailian
(github.com/alibaba-edu/qwen-bailian-usagetraces-anon) has the same keys and
``chat_id``, but its ``timestamp`` counts seconds and its blocks are of 16 tokens.
"""

from collections.abc import Iterator

from clusters.units import s_to_ms
from planner.workload.traces.jsonl_rows import jsonl_rows
from planner.workload.traces.rows import Columns, TraceRow

MOONCAKE = Columns(
    arrival="timestamp", input="input_length", output="output_length", hashes="hash_ids"
)

BAILIAN_BLOCK_TOKENS = 16
"""Tokens of a block in Bailian's traces."""


def mooncake_rows(lines: Iterator[str], *, file: str) -> Iterator[TraceRow]:
    """Rows of a Mooncake trace."""
    return jsonl_rows(lines, file=file, columns=MOONCAKE, to_ms=float)


def bailian_rows(lines: Iterator[str], *, file: str) -> Iterator[TraceRow]:
    """Rows of a Bailian trace."""
    return jsonl_rows(lines, file=file, columns=MOONCAKE, to_ms=s_to_ms)
