"""The kernel of a unit against a plain simulator, and what must always hold."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.latency.contention import SmSharing
from models.latency.step_table import StepTable
from models.parallelism import Parallelism
from planner.multiplexing import unit_state as state
from planner.multiplexing.llm_steps import LlmSteps
from planner.multiplexing.unit_kernel import run
from planner.multiplexing.unit_world import UnitLlm, World, build_world
from planner.workload.requests import Requests
from tests.models.conftest import TINY
from tests.planner.multiplexing.reference_unit import ReferenceUnit
from tests.planner.tiny_problems import tiny_cluster

TABLE = StepTable(
    prefill_tokens=(1.0, 64.0, 4096.0),
    prefill_ms=(1.0, 2.0, 100.0),
    prefill_per_sq_token_ms=1e-5,
    decode_batch=(1.0, 8.0, 64.0),
    decode_ms=(1.0, 1.3, 4.0),
    decode_per_kv_token_ms=(1e-4, 1e-4, 1e-4),
)


def steps(scale: float = 1.0) -> LlmSteps:
    topology = tiny_cluster(1, 1).topology
    return LlmSteps(
        llm=TINY,
        parallelism=Parallelism(),
        gpu=topology.gpu(0).type,
        links=topology.group_links([(0,)]),
        table=TABLE.scaled(scale),
        sharing=SmSharing.published(),
    )


def llm(
    name: str, *, scale: float = 1.0, share: float = 1.0, quota: int = 4000, seqs=8
) -> UnitLlm:
    return UnitLlm(
        service=name,
        steps=steps(scale),
        input_tokens=50.0,
        context_tokens=60.0,
        decode_share_frac=share,
        kv_quota_tokens=quota,
        kv_bytes_per_token=2.0 if name == "a" else 3.0,
        max_num_seqs=seqs,
        max_batch_tokens=128,
    )


def traffic(seed: int, num: int, rate: float) -> Requests:
    rng = np.random.default_rng(seed)
    return Requests(
        arrival_ms=np.cumsum(rng.exponential(1000.0 / rate, num)),
        input_tokens=rng.integers(1, 150, num),
        output_tokens=rng.integers(1, 60, num),
    )


def world_of(llms, requests, *, space: bool, adapt_ms=None, decodes=False) -> World:
    return build_world(
        llms,
        requests,
        sharing=SmSharing.published(),
        prefill_share_frac=0.5 if space else 1.0,
        shares_space=space,
        adapt_ms=adapt_ms,
        decodes_only=decodes,
    )


def without_stretch(world: World) -> World:
    """Steps that take the time of their rows, whatever else runs."""
    for name in world.decode_step.dtype.names:
        if not name.startswith("whole"):
            world.decode_step[name] = 0.0
    for name in ("memory", "arithmetic", "exchange", "least_memory"):
        world.prefill_knot[f"{name}_ms"] = 0.0
    world.prefill_knot["least_arithmetic_ms"] = 0.0
    return world


systems = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "num_llms": st.integers(1, 3),
        "quota": st.integers(60, 700),
        "seqs": st.integers(1, 8),
        "rate": st.floats(5.0, 400.0),
        "space": st.booleans(),
        "adapt_ms": st.sampled_from([None, 50.0, 400.0]),
        "decodes": st.booleans(),
    }
)


def build(given_: dict) -> World:
    names = "abc"[: given_["num_llms"]]
    llms = [
        llm(
            name,
            scale=1.0 + i / 7,
            share=0.15,
            quota=given_["quota"],
            seqs=given_["seqs"],
        )
        for i, name in enumerate(names)
    ]
    requests = {
        name: traffic(given_["seed"] + i, 25, given_["rate"] / (1 + 2 * i))
        for i, name in enumerate(names)
    }
    if given_["decodes"]:  # answers of one token do not come to decode
        requests = {
            name: replace(each, output_tokens=each.output_tokens + 1)
            for name, each in requests.items()
        }
    return world_of(
        llms,
        requests,
        space=given_["space"],
        adapt_ms=given_["adapt_ms"],
        decodes=given_["decodes"],
    )


@given(systems)
@settings(max_examples=120, deadline=None)
def test_every_time_is_that_of_the_plain_simulator(given_: dict) -> None:
    world = without_stretch(build(given_))
    reference = ReferenceUnit(world)
    run(world)
    reference.run()
    for job, request in zip(reference.jobs, world.request, strict=True):
        assert job.is_rejected == (request["status"] == state.REJECTED)
        np.testing.assert_allclose(
            [
                request["prefill_start_ms"],
                request["first_token_ms"],
                request["finish_ms"],
            ],
            [job.start, job.first, job.finish],
            rtol=1e-9,
        )
        assert request["num_preemptions"] == job.preemptions
    assert [int(q) for q in world.llm["quota_tokens"]] == [
        each.quota for each in reference.llms
    ]


@given(systems)
@settings(max_examples=60, deadline=None)
def test_nothing_is_lost_and_nothing_comes_before_its_cause(given_: dict) -> None:
    world = build(given_)
    before = float((world.llm["quota_tokens"] * world.llm["bytes_per_token"]).sum())
    run(world)
    request, llms = world.request, world.llm
    done = request[request["status"] == state.DONE]
    rejected = request["status"] == state.REJECTED
    assert len(done) + rejected.sum() == len(request)
    if given_["decodes"]:
        is_again = np.isfinite(done["prefill_start_ms"])
        assert (done["num_preemptions"][is_again] > 0).all()
        assert (done["first_token_ms"] == done["arrival_ms"]).all()
    else:
        assert (done["prefill_start_ms"] >= done["arrival_ms"]).all()
        assert (done["first_token_ms"] > done["prefill_start_ms"]).all()
    more = done["output_tokens"] > 1
    assert (done["finish_ms"] > done["first_token_ms"])[more].all()
    assert (llms["held_tokens"] == 0).all()
    assert (llms["num_running"] == 0).all()
    assert (llms["kv_tokens"] == 0).all()
    # Quotas move, but not their sum; and nobody holds more than a quota can be.
    after = float((llms["quota_tokens"] * llms["bytes_per_token"]).sum())
    assert after <= before + 1e-6
    if given_["adapt_ms"] is None:
        assert (llms["peak_held_tokens"] <= given_["quota"]).all()
    again = build(given_)
    run(again)
    assert again.request.tobytes() == request.tobytes()


def test_steps_bound_by_memory_slow_each_other_down() -> None:
    def finishes(*llms: UnitLlm) -> np.ndarray:
        world = world_of(
            llms,
            {each.service: traffic(ord(each.service), 40, 50.0) for each in llms},
            space=True,
        )
        world = without_stretch(world)
        for power in "01":
            whole = world.decode_step[f"whole{power}"]
            world.decode_step[f"least_memory{power}"] = 0.8 * whole
        run(world)
        first = world.request[world.request["llm"] == 0]
        return first["finish_ms"] - first["first_token_ms"]

    alone = finishes(llm("a", share=0.25))
    pair = finishes(llm("a", share=0.25), llm("b", share=0.25))
    assert pair.mean() > 1.1 * alone.mean()
    # Two that ask for 80 % of the memory each stretch to 160 %, and batches grow.
    assert (pair <= 2.0 * alone.max()).all()


def test_in_turns_one_step_runs_at_a_time() -> None:
    world = world_of(
        [llm("a"), llm("b")],
        {"a": traffic(1, 60, 100.0), "b": traffic(2, 60, 100.0)},
        space=False,
    )
    run(world)
    busy = world.llm["prefill_busy_ms"].sum() + world.llm["decode_busy_ms"].sum()
    assert busy <= world.clock["now_ms"][0] * (1 + 1e-9)


def test_full_quota_grows_where_another_has_room() -> None:
    llms = [llm("a", share=0.25, quota=300), llm("b", share=0.25, quota=3000)]
    requests = {"a": traffic(1, 200, 200.0), "b": traffic(2, 5, 2.0)}
    fixed = world_of(llms, requests, space=True)
    moving = world_of(llms, requests, space=True, adapt_ms=100.0)
    run(fixed)
    run(moving)
    assert moving.llm["quota_tokens"][0] > 300
    assert moving.llm["quota_tokens"][1] < 3000
    waits = [
        np.nanmean(w.request["first_token_ms"] - w.request["arrival_ms"])
        for w in (moving, fixed)
    ]
    assert waits[0] < waits[1]


def test_traffic_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="traffic = 'x'"):
        world_of([llm("a")], {"x": traffic(1, 3, 1.0)}, space=False)
