"""The shipped fits: readable, small, and what they claim to be."""

import json

import pytest

from clusters.fields import InputError
from models.latency.fit_file import ENGINES, FITS, EngineFit, load_fit, shipped_systems

SHIPPED = [(system, engine) for engine in ENGINES for system in shipped_systems(engine)]


def test_ten_systems_and_three_engines_are_shipped_in_under_3_mb() -> None:
    assert len({system for system, _ in SHIPPED}) >= 10
    assert {engine for _, engine in SHIPPED} == {"vllm", "sglang", "trtllm"}
    assert sum(path.stat().st_size for path in FITS.glob("*/*.json")) < 3e6


@pytest.mark.parametrize(("system", "engine"), SHIPPED)
def test_a_fit_file_round_trips(system: str, engine: str) -> None:
    text = (FITS / system / f"{engine}.json").read_text()
    fit = load_fit(system, engine)
    assert json.loads(json.dumps(fit.to_json())) == json.loads(text)
    assert EngineFit.from_json(fit.to_json()) == fit


@pytest.mark.parametrize(("system", "engine"), SHIPPED)
def test_a_fit_says_what_it_rests_on(system: str, engine: str) -> None:
    fit = load_fit(system, engine)
    assert (fit.system, fit.engine) == (system, engine)
    assert fit.source.package == "aiconfigurator-core"
    assert fit.source.engine_version
    for kind in ("gemm", "prefill_attention", "decode_attention", "all_reduce"):
        assert fit.variants(kind), kind
    assert "bfloat16" in fit.variants("gemm")
    for variants in fit.operators.values():
        for operator in variants.values():
            evidence = operator.evidence
            assert evidence.rows_used > 10
            assert evidence.median_error_frac < 0.2
            assert bool(evidence.rows_discarded) == bool(evidence.discard_reason)


@pytest.mark.parametrize(("system", "engine"), SHIPPED)
def test_dense_products_are_fitted_closely_on_shapes_left_out(
    system: str, engine: str
) -> None:
    gemm = load_fit(system, engine).operators["gemm"]["bfloat16"].evidence
    assert gemm.held_out_median_error_frac is not None
    assert gemm.held_out_median_error_frac < 0.08


def test_an_unknown_key_is_refused() -> None:
    data = load_fit("h200_sxm", "vllm").to_json()
    with pytest.raises(InputError, match="fit"):
        EngineFit.from_json({**data, "flavour": 1})
    with pytest.raises(InputError, match="source"):
        EngineFit.from_json({k: v for k, v in data.items() if k != "source"})


def test_a_fit_that_is_not_shipped_is_an_input_error() -> None:
    with pytest.raises(InputError):
        load_fit("h200_sxm", "orca")
