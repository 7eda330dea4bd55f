"""The law of SM shares, fitted to what a profile has measured."""

from dataclasses import replace
from itertools import product

import pytest

from clusters.gpu import GpuType
from clusters.links import GroupLinks
from models.latency.contention import SmSharing
from models.latency.profile_shares import ShareSlowdown
from models.latency.step_table import StepTable
from models.parallelism import Parallelism
from planner.multiplexing.llm_steps import LlmSteps
from planner.multiplexing.measured_sharing import MeasuredShare, fitted
from planner.multiplexing.meshes import MeshKind
from planner.multiplexing.problem import SharedProblem
from planner.multiplexing.solve import book_of
from planner.solve import library_for
from tests.models.latency.test_measured import LLM, profile

PUBLISHED = SmSharing.published()
TRUE = SmSharing(
    memory_frac=0.7, arithmetic_frac=0.6, memory_scale=0.5, arithmetic_scale=3.0
)
STEPS = LlmSteps(
    llm=LLM,
    parallelism=Parallelism(tp=1),
    gpu=GpuType.load("h200_sxm"),
    links=GroupLinks(tp=(), pp=()),
    # Just what the peaks allow of a decode of eight requests and a prefill, so that
    # the GPU and not the host decides.
    table=StepTable(
        prefill_tokens=(0.0, 2048.0),
        prefill_ms=(0.0, 50.0),
        decode_batch=(0.0, 64.0),
        decode_ms=(4.0, 6.0),
        decode_per_kv_token_ms=(0.0, 0.0),
    ),
    sharing=PUBLISHED,
)
SHARES = (0.8, 0.6, 0.5, 0.4, 0.3)


def measured_by(law: SmSharing) -> list[MeasuredShare]:
    """What steps would be measured to lose if a law were true."""
    cases = ((True, 8, 300.0), (True, 64, 300.0), (False, 1, 2048.0))
    found = []
    for (is_decode, num, tokens), share in product(cases, SHARES):
        unknown = MeasuredShare(
            steps=STEPS,
            is_decode=is_decode,
            num_requests=num,
            tokens=tokens,
            sm_share_frac=share,
            slowdown=1.0,
        )
        found.append(replace(unknown, slowdown=unknown.slowdown_by(law)))
    return found


def test_slowdowns_that_follow_the_law_are_found_again() -> None:
    measured = measured_by(TRUE)
    assert max(each.slowdown for each in measured) > 1.5
    law = fitted(PUBLISHED, measured, source="here")
    for each in measured:
        assert each.slowdown_by(law) == pytest.approx(each.slowdown, rel=1e-2)

    assert (law.source, law.date) == ("here", "")
    assert law.decode_error_frac == pytest.approx(0.0, abs=1e-2)


def test_without_decodes_their_error_is_unknown() -> None:
    prefills = [each for each in measured_by(TRUE) if not each.is_decode]
    assert fitted(PUBLISHED, prefills, source="here").decode_error_frac is None


@pytest.fixture
def measured_problem() -> SharedProblem:
    """Two services on H200, of which a profile has the model and two of its shares."""
    (model,) = profile(1, llm=LLM).models
    shares = tuple(
        ShareSlowdown(
            sm_share_frac=share,
            phase=phase,
            num_requests=num,
            slowdown=slowdown,
            least=slowdown,
            most=slowdown,
            num_points=1,
        )
        for share, phase, num, slowdown in (
            (0.5, "prefill", 1, 1.9),
            (0.5, "decode", 8, 1.6),
            (0.3, "decode", 8, 2.4),
        )
    )
    with_shares = replace(model, sm_shares=shares)
    known = replace(profile(1), models=(with_shares,))
    data = {
        "cluster": "eight_nodes_h200",
        "services": [
            {
                "name": name,
                "llm": "llama-3.1-8b",
                "workload": {"lengths": "200x100", "rate_rps": 1},
            }
            for name in ("a", "b")
        ],
    }
    problem = SharedProblem.of_mapping(data)
    return replace(problem, engine=replace(problem.engine, latency_profile=known))


def test_the_gpu_that_was_measured_has_a_law_of_its_own(
    measured_problem: SharedProblem,
) -> None:
    book = book_of(measured_problem, library_for(measured_problem, None))
    law = book.sharing_on("h200_sxm")
    assert law.source == "SM shares measured on H200"
    assert book.sharing_on("a100_sxm") == PUBLISHED
    # Measured steps slow down more than those of A100 would, and so do their costs.
    mesh = MeshKind(gpu_type="h200_sxm", num_gpus=1)
    plain = replace(
        measured_problem,
        engine=replace(
            measured_problem.engine, latency_profile=profile(1).only_of(LLM)
        ),
    )
    without = book_of(plain, library_for(plain, None))
    own, other = (each.costs(0, mesh).decode_ms[0.3][8] for each in (book, without))
    assert own > other
