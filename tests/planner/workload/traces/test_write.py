"""Writing traces: what is read back is what was written, or nothing is written."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusters.fields import InputError
from planner.workload.prefix_blocks import PrefixBlocks
from planner.workload.requests import MAX_TOKENS, Requests
from planner.workload.traces import read_trace, write_requests

TOKENS = st.integers(1, MAX_TOKENS)
HASHES = st.lists(st.integers(0, 2**62), max_size=4).map(tuple)
ROWS = st.lists(
    st.tuples(st.floats(0, 1e12), TOKENS, TOKENS, HASHES), min_size=1, max_size=20
)


@pytest.mark.parametrize("format", ["csv", "jsonl"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, with_hashes=st.booleans())
def test_a_round_trip_keeps_everything(
    tmp_path: Path,
    format: Literal["csv", "jsonl"],
    rows: list[tuple[float, int, int, tuple[int, ...]]],
    with_hashes: bool,
) -> None:
    times, inputs, outputs, hashes = zip(*sorted(rows), strict=True)
    written = Requests(
        arrival_ms=np.array(times),
        input_tokens=np.array(inputs),
        output_tokens=np.array(outputs),
        prefix_blocks=PrefixBlocks.of(hashes) if with_hashes else None,
    )
    file = tmp_path / f"trace.{format}"
    write_requests(written, file, format=format)
    read = read_trace(file)
    assert read.arrival_ms.tolist() == written.arrival_ms.tolist()
    assert read.input_tokens.tolist() == written.input_tokens.tolist()
    assert read.output_tokens.tolist() == written.output_tokens.tolist()
    assert (read.prefix_blocks is None) == (written.prefix_blocks is None)
    if read.prefix_blocks is not None:
        assert read.prefix_blocks.rows() == hashes


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    requests = Requests(
        arrival_ms=np.zeros(1),
        input_tokens=np.ones(1, int),
        output_tokens=np.ones(1, int),
    )
    with pytest.raises(InputError, match=r"none.out"):
        write_requests(requests, tmp_path / "none" / "out.csv")
    assert list(tmp_path.iterdir()) == []
