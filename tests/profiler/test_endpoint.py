"""A server's law is recovered from outside, and its faults end in words, not hangs."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from clusters.fields import InputError
from models.latency.profile_build import fit_profile
from models.llm import LlmSpec
from models.profile_records import Environment, Status
from models.profile_table import ProfileTable
from profiler.endpoint import EndpointSettings, common_gaps_ms, profile_endpoint
from profiler.streaming import Answer, Endpoint, EndpointError, complete


def _load(name: str) -> ModuleType:
    """A module beside this file; tests are no package."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


law = _load("serving_law")

LLM = LlmSpec.load("opt-13b")
HERE = Environment(device="endpoint", device_name="local", gpu="paper", engine="law")
SMALL = EndpointSettings(
    prompt_tokens=(16, 64), concurrencies=(1,), contexts=(16,), answer_tokens=6
)


def endpoint(port: int, **limits: float) -> Endpoint:
    return Endpoint(url=f"http://127.0.0.1:{port}/v1", model="law", **limits)


def lateness_ms(port: int) -> float:
    """What a busy machine adds to the answer of one token, in threads of one process.

    Three times its median: some of the samples that are fitted are later than others.
    """
    answers = [complete(endpoint(port), [1], max_tokens=1) for _ in range(9)]
    late = [answer.ttft_ms - law.prefill_ms(1) for answer in answers]
    return 3.0 * max(0.0, float(np.median(late)))


@pytest.mark.slow
def test_law_of_a_live_server_is_recovered() -> None:
    settings = EndpointSettings(
        prompt_tokens=(64, 512, 1024, 2048),
        concurrencies=(1, 4, 8),
        contexts=(64, 2048),
        answer_tokens=24,
        num_repeats=5,
    )
    with law.serving() as server:
        records = profile_endpoint(
            endpoint(server.port),
            LLM,
            HERE,
            settings=settings,
            rng=np.random.default_rng(0),
        )
        late_ms = lateness_ms(server.port)
    assert {record.status for record in records} == {Status.OK}
    (model,) = fit_profile(ProfileTable(records=records)).models
    table = model.parts[0].table
    for tokens in (128, 700, 1500):
        found = table.prefill_step_ms([tokens])
        true_ms = law.prefill_ms(tokens)
        assert abs(found - true_ms) < 0.03 * true_ms + late_ms
    for batch, context in ((1, 1000), (2, 500), (6, 1500), (8, 300)):
        found = table.decode_step_ms(batch, batch * context)
        true_ms = law.decode_ms(batch, batch * context)
        assert abs(found - true_ms) < 0.03 * true_ms + late_ms


def test_fault_that_passes_is_retried() -> None:
    with law.serving("status_500", faults=2) as server:
        records = profile_endpoint(
            endpoint(server.port), LLM, HERE, settings=SMALL,
            rng=np.random.default_rng(0),
        )  # fmt: skip
    assert {record.status for record in records} == {Status.OK}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("status_500", "status 500: full"),
        ("closes", "closed after 1 of 6 tokens"),
        ("silent", "nothing came for 0.3 s"),
        ("stalls", "nothing came for 0.3 s"),
        ("trickle", "no whole answer in 1 s"),
    ],
)
def test_fault_is_told_within_its_limit(fault: str, words: str) -> None:
    with law.serving(fault) as server:
        asked = endpoint(server.port, read_limit_s=0.3, answer_limit_s=1.0)
        with pytest.raises(EndpointError, match=words):
            complete(asked, [1, 2, 3], max_tokens=6)


def test_point_that_keeps_failing_is_recorded_with_the_reason() -> None:
    # Two good prefills of one token; every longer answer breaks off.
    with law.serving("closes") as server:
        records = profile_endpoint(
            endpoint(server.port), LLM, HERE, settings=SMALL,
            rng=np.random.default_rng(0),
        )  # fmt: skip
    by_phase = {r.point.phase: r for r in records}
    assert by_phase["prefill"].status is Status.OK
    assert by_phase["decode"].status is Status.NOT_MEASURED
    assert "closed after 1 of 6 tokens" in by_phase["decode"].note


def test_server_that_is_not_there_is_an_error_with_its_address() -> None:
    with law.serving() as server:
        port = server.port
    with pytest.raises(InputError, match=f"127.0.0.1:{port + 1}"):
        profile_endpoint(
            Endpoint(url=f"http://127.0.0.1:{port + 1}/v1", model="law"),
            LLM,
            HERE,
            settings=SMALL,
            rng=np.random.default_rng(0),
        )


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http:///v1"])
def test_address_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="http://HOST"):
        Endpoint(url=url, model="m")


def test_gaps_count_while_all_answers_are_under_way() -> None:
    # The second starts at 10 and the first ends at 40: gaps of 10 and 20 and 10.
    answers = [
        Answer(sent_ms=0.0, token_ms=(0.0, 10.0, 20.0, 30.0, 40.0)),
        Answer(sent_ms=0.0, token_ms=(10.0, 20.0, 30.0, 40.0, 90.0)),
    ]
    np.testing.assert_allclose(common_gaps_ms(answers), [10.0, 10.0, 10.0])
