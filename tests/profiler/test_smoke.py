"""One look finds every surprise: a probe that kills its process hides no other."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the profiler needs torch")

from models.llm import LlmSpec  # noqa: E402
from profiler import smoke as smoke_module  # noqa: E402
from profiler.environment import Device  # noqa: E402
from profiler.features import LEFT_OUT, Feature  # noqa: E402
from profiler.grid import GridLimits  # noqa: E402
from profiler.probes import Bench, NotHereError, ProbeFailedError  # noqa: E402
from profiler.smoke import (  # noqa: E402
    Outcome,
    ProbeResult,
    SmokeRequest,
    features_to_leave_out,
    main,
    run_probe,
    smoke,
)
from profiler.subject import Subject  # noqa: E402

LIMITS = GridLimits(
    max_prompt_tokens=64,
    max_past_tokens=0,
    max_requests=4,
    max_context_tokens=64,
    max_kv_tokens=256,
)
BENCH = Bench(device=Device(kind="cpu"), dtype="fp32", subjects=(), limits=LIMITS)
NAMES = ("device", "fp8 products", "grouped products", "graph capture", "copy")

# A process of probes that dies at those named in CRASHES, and hangs at those in HANGS.
STUB = """#!{python}
import json, os, sys, time
request = json.load(open(sys.argv[3]))
results = []
for name in request["names"]:
    if name in {crashes}:
        sys.stderr.write("CUDA error: an illegal memory access was encountered\\n")
        sys.stderr.flush()
        os.abort()
    if name in {hangs}:
        time.sleep(60)
    detail = os.environ["{left_out}"]
    results.append(dict(name=name, outcome="ok", detail=detail, seconds=0.1))
    open(request["out"] + ".new", "w").write(json.dumps(results))
    os.rename(request["out"] + ".new", request["out"])
"""


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list]:
    """Run the smoke test with a stub for the process of the probes."""

    def look(
        crashes: tuple[str, ...] = (), hangs: tuple[str, ...] = (), max_s: float = 30.0
    ) -> list[ProbeResult]:
        stub = tmp_path / "stub"
        stub.write_text(
            STUB.format(
                python=sys.executable, crashes=crashes, hangs=hangs, left_out=LEFT_OUT
            )
        )
        stub.chmod(0o755)
        monkeypatch.setattr(smoke_module.sys, "executable", str(stub))
        request = SmokeRequest(
            limits=LIMITS,
            device="cpu",
            dtype="fp32",
            names=NAMES,
            out=str(tmp_path / "out.json"),
        )
        shown: list[ProbeResult] = []
        found = smoke(request, max_s=max_s, show=shown.append)
        assert list(found) == shown
        assert [path.name for path in tmp_path.iterdir()] == ["stub"]
        return shown

    return look


def test_every_probe_is_run_in_one_process(look: Callable[..., list]) -> None:
    assert [(r.name, r.outcome) for r in look()] == [(n, Outcome.OK) for n in NAMES]


def test_probe_that_crashes_is_named_and_the_others_run_without_its_feature(
    look: Callable[..., list],
) -> None:
    results = {r.name: r for r in look(crashes=("fp8 products", "graph capture"))}
    crashed = [name for name, r in results.items() if r.outcome is Outcome.CRASHED]
    assert crashed == ["fp8 products", "graph capture"]
    assert "signal 6" in results["fp8 products"].detail
    assert "illegal memory access" in results["fp8 products"].detail
    # Each process after a crash is told what to leave out.
    left_out = [results[n].detail for n in ("device", "grouped products", "copy")]
    assert left_out == ["", "fp8", "fp8,graphs"]
    found = features_to_leave_out(tuple(results.values()))
    assert found == (Feature.FP8, Feature.GRAPHS)


def test_probe_that_hangs_is_ended(
    look: Callable[..., list], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke_module, "_PROBE_S", 0.5)
    results = look(hangs=("grouped products",))
    by_name = {r.name: r for r in results}
    assert by_name["grouped products"].outcome is Outcome.CRASHED
    assert "nothing came for" in by_name["grouped products"].detail
    assert by_name["copy"].outcome is Outcome.OK


def test_what_the_time_does_not_allow_is_told(look: Callable[..., list]) -> None:
    results = look(hangs=("fp8 products",), max_s=1.0)
    outcomes = [r.outcome for r in results]
    assert outcomes == [
        Outcome.OK,
        Outcome.CRASHED,
        *(Outcome.NOT_TRIED for _ in NAMES[2:]),
    ]
    assert results[-1].detail == "no time was left"


def test_process_that_never_gets_anywhere_is_given_up(
    look: Callable[..., list],
) -> None:
    results = look(crashes=NAMES)
    outcomes = [r.outcome for r in results]
    assert outcomes == [Outcome.CRASHED] * 3 + [Outcome.NOT_TRIED] * 2
    assert results[-1].detail == "3 processes in a row found nothing"


@pytest.mark.parametrize(
    ("error", "outcome", "detail"),
    [
        (NotHereError("no CUDA device"), Outcome.ABSENT, "no CUDA device"),
        (ProbeFailedError("off by 3%"), Outcome.FAILED, "off by 3%"),
        (RuntimeError("a\nb"), Outcome.FAILED, "RuntimeError: a"),
        (TypeError("got 3"), Outcome.FAILED, "TypeError: got 3"),
    ],
)
def test_whatever_a_probe_raises_is_its_result(
    error: Exception, outcome: Outcome, detail: str
) -> None:
    def probe(_: Bench) -> str:
        raise error

    found = run_probe("it", probe, BENCH)
    assert (found.outcome, found.detail) == (outcome, detail)


def test_probes_run_on_a_real_device(tiny_llm: LlmSpec, tmp_path: Path) -> None:
    """The process itself, on the processor at hand."""
    subject = Subject(llm=tiny_llm, part="dense", dtype="fp32")
    out, asked = tmp_path / "out.json", tmp_path / "request.json"
    names = ["device", "events and L2 flush", f"layer {subject.describe()}", "engine"]
    from clusters.mapping import to_mapping

    request = SmokeRequest(
        subjects=(subject,),
        limits=LIMITS,
        device="cpu",
        dtype="fp32",
        names=tuple(names),
        out=str(out),
    )
    asked.write_text(json.dumps(to_mapping(request)))
    main([str(asked)])
    results = json.loads(out.read_text())
    assert [r["name"] for r in results] == names
    assert {r["outcome"] for r in results} == {"ok"}, results
    layer = results[2]["detail"]
    assert all(word in layer for word in ("prefill", "decode", "mixed", "sdpa"))
