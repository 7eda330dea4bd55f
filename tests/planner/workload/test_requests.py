"""What `Requests` accepts, and how they scale."""

import numpy as np
import pytest

from clusters.fields import InputError
from planner.workload.requests import MAX_TOKENS, Requests


def requests_of(
    arrival_ms: list[float], inputs: list[int], outputs: list[int]
) -> Requests:
    return Requests(
        arrival_ms=np.array(arrival_ms, dtype=np.float64),
        input_tokens=np.array(inputs, dtype=np.int64),
        output_tokens=np.array(outputs, dtype=np.int64),
    )


def test_rate_counts_gaps_not_requests() -> None:
    # 3 requests have 2 gaps in 4 s: 0.5 requests/s.
    assert requests_of([0, 1000, 4000], [1] * 3, [1] * 3).rate_rps == 0.5


def test_at_rate_starts_at_zero_and_keeps_the_shape_of_gaps() -> None:
    # Gaps 1 and 3 s at 0.5 requests/s become 0.25 and 0.75 s at 2 requests/s.
    scaled = requests_of([500, 1500, 4500], [1] * 3, [1] * 3).at_rate(2.0)
    assert scaled.arrival_ms.tolist() == [0, 250, 1000]


@pytest.mark.parametrize(
    ("arrival_ms", "inputs", "outputs", "message"),
    [
        ([], [], [], "requests = 0: expected at least one request"),
        ([0.0], [0], [1], "input_tokens[0] = 0: expected a number >= 1"),
        ([0.0, 1.0], [1, 1], [1, -3], "output_tokens[1] = -3: expected a number >= 1"),
        ([0.0], [MAX_TOKENS + 1], [1], "input_tokens[0] = 100000001: expected a numb"),
        ([0.0], [1, 2], [1], "input_tokens = 2: expected 1 entries"),
        ([2.0, 1.0], [1, 1], [1, 1], "arrival_ms"),
        ([float("nan")], [1], [1], "arrival_ms"),
    ],
)
def test_impossible_requests_are_refused(
    arrival_ms: list[float], inputs: list[int], outputs: list[int], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        requests_of(arrival_ms, inputs, outputs)
    assert message in str(caught.value)
