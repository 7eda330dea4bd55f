"""A profile answers for its own GPU and shapes, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from clusters.fields import InputError
from clusters.gpu import GpuType
from clusters.links import GroupLink, GroupLinks
from clusters.mapping import from_mapping, to_mapping
from models.communication import CommunicationEfficiency, all_reduce_ms
from models.latency.library import LatencyLibrary
from models.latency.measured import (
    MeasuredSource,
    add_tables,
    single_gpu_table,
    with_floor,
)
from models.latency.mixed_extra import MixedExtra
from models.latency.profile import (
    FitError,
    Profile,
    ProfiledModel,
    ProfiledPart,
    layer_parts,
)
from models.latency.request import LatencyRequest, LatencyUnavailableError, Provenance
from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.parallelism import Parallelism
from models.profile_records import Environment

GPU = GpuType.load("h200_sxm")
LLM = LlmSpec.load("llama-3.1-8b")
RING = GroupLink(bytes_per_s=4e11, latency_ms=0.001)
ERROR = FitError(
    median_frac=0.01, p90_frac=0.04, max_frac=0.05, num_points=5, method="held out"
)
# A layer takes 1 ms and 0.01 ms a token; the ends 2 ms.
LAYER = StepTable(
    prefill_tokens=(0.0, 100.0),
    prefill_ms=(1.0, 2.0),
    prefill_per_sq_token_ms=1e-6,
    decode_batch=(1.0, 8.0),
    decode_ms=(0.5, 0.5),
    decode_per_kv_token_ms=(1e-4, 1e-4),
)
ENDS = StepTable(
    prefill_tokens=(0.0, 1000.0),
    prefill_ms=(2.0, 2.0),
    decode_batch=(1.0, 4.0),
    decode_ms=(1.0, 4.0),
    decode_per_kv_token_ms=(0.0, 0.0),
)


def part(name: str, table: StepTable) -> ProfiledPart:
    return ProfiledPart(
        part=name,
        table=table,
        prefill_error=ERROR,
        decode_error=ERROR,
        max_prompt_tokens=1000,
        max_requests=8,
        max_kv_tokens=1e5,
    )


def profile(*tps: int, llm: LlmSpec = LLM, overhead_ms: float = 0.0) -> Profile:
    return Profile(
        gpu="h200_sxm",
        environment=Environment(device="cuda", device_name="H200", gpu="h200_sxm"),
        models=tuple(
            ProfiledModel(
                llm=llm,
                tp=tp,
                dtype="bf16",
                parts=(part("dense", LAYER), part("ends", ENDS)),
                decode_overhead_ms=overhead_ms,
                num_points=10,
                left_out=(("oom", 2),),
            )
            for tp in tps
        ),
    )


def request(*, tp: int = 1, pp: int = 1, llm: LlmSpec = LLM) -> LatencyRequest:
    return LatencyRequest(
        llm=llm,
        parallelism=Parallelism(tp=tp, pp=pp),
        gpu=GPU,
        links=GroupLinks(tp=(RING,) * pp, pp=(RING,) * (pp - 1)),
    )


def test_model_is_its_layers_and_its_ends() -> None:
    (table,) = MeasuredSource(profile=profile(1)).compile(request())
    # 32 layers of 1 + 0.01 * 50 ms and 1e-6 ms a square, and 2 ms of ends.
    assert table.prefill_step_ms([50]) == pytest.approx(32 * 1.5 + 32e-6 * 2500 + 2)
    # Two requests, 300 KV tokens: 32 * (0.5 + 1e-4 * 300) + 2 of ends.
    assert table.decode_step_ms(2, 300) == pytest.approx(32 * 0.53 + 2)


def test_stages_share_the_layers_and_the_last_has_the_ends() -> None:
    first, last = MeasuredSource(profile=profile(1)).compile(request(pp=2))
    assert last.decode_step_ms(1, 0) == pytest.approx(16 * 0.5 + 1)
    # The hop to the next stage comes on top of 16 layers.
    assert 16 * 0.5 < first.decode_step_ms(1, 0) < 16 * 0.5 + 0.1


def test_tensor_parallel_shards_pay_two_all_reduces_a_layer() -> None:
    (alone,) = MeasuredSource(profile=profile(1)).compile(request())
    (shard,) = MeasuredSource(profile=profile(2)).compile(request(tp=2))
    one = all_reduce_ms(
        2.0 * LLM.hidden * 8, RING, num_gpus=2, efficiency=CommunicationEfficiency()
    )
    difference = shard.decode_step_ms(8, 0) - alone.decode_step_ms(8, 0)
    assert difference == pytest.approx(64 * one)


def test_overhead_is_paid_once_a_step() -> None:
    plain = single_gpu_table(profile(1), LLM)
    slow = single_gpu_table(profile(1, overhead_ms=0.3), LLM)
    assert slow.decode_step_ms(4, 9) == pytest.approx(plain.decode_step_ms(4, 9) + 0.3)


def test_tables_that_run_after_each_other_add_up_beyond_their_knots() -> None:
    total = add_tables([LAYER, ENDS])
    for tokens in (1, 50, 100, 500, 5000):
        parts = LAYER.prefill_step_ms([tokens]) + ENDS.prefill_step_ms([tokens])
        assert total.prefill_step_ms([tokens]) == pytest.approx(parts)
    for batch in (1, 3, 8, 50):
        alone = LAYER.decode_step_ms(batch, 70) + ENDS.decode_step_ms(batch, 70)
        assert total.decode_step_ms(batch, 70) == pytest.approx(alone)


def test_library_prefers_the_profile_and_says_so() -> None:
    library = LatencyLibrary(
        sources=(
            MeasuredSource(profile=profile(1)),
            *LatencyLibrary.default().sources,
        )
    )
    choice = library.choose(request())
    assert choice.source == "measured"
    assert choice.provenance is Provenance.MEASURED
    assert choice.expected_error_frac == 0.04
    # A model the profile does not hold is answered by the next source.
    other = library.choose(request(llm=LlmSpec.load("qwen3-8b")))
    assert other.source != "measured"
    assert "no measurement of qwen3-8b" in other.reason


def test_parallelism_that_was_not_measured_is_unavailable_with_the_reason() -> None:
    source = MeasuredSource(profile=profile(1, 4))
    with pytest.raises(LatencyUnavailableError, match=r"TP2 .*TP1, TP4"):
        source.compile(request(tp=2))


def test_part_that_was_not_measured_is_unavailable_with_the_reason() -> None:
    llm = LlmSpec.load("mixtral-8x7b")
    source = MeasuredSource(profile=profile(1, llm=llm))
    with pytest.raises(LatencyUnavailableError, match="'moe' was not measured"):
        source.compile(request(llm=llm))


def test_other_gpu_is_refused() -> None:
    why_not = MeasuredSource(profile=profile(1)).why_not_pair(
        LLM, GpuType.load("a100_sxm")
    )
    assert why_not == "the profile is of h200_sxm, not a100_sxm"


def test_name_of_a_model_does_not_matter_but_its_shapes_do() -> None:
    source = MeasuredSource(profile=profile(1))
    assert source.why_not_pair(replace(LLM, name="ours"), GPU) is None
    assert source.why_not_pair(replace(LLM, num_layers=31), GPU) is not None


def test_profile_file_reads_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(profile(1, 2).to_json())
    assert Profile.load(path) == profile(1, 2)


def test_profile_can_be_cut_to_one_model() -> None:
    both = replace(
        profile(1), models=profile(1).models + profile(1, llm=_other()).models
    )
    assert both.only_of(LLM) == profile(1)
    with pytest.raises(InputError, match="qwen3-8b"):
        profile(1).only_of(_other())


def _other() -> LlmSpec:
    return LlmSpec.load("qwen3-8b")


def test_layers_are_counted_by_kind() -> None:
    # DeepSeek-V3: 3 dense layers, then 58 with experts.
    assert layer_parts(LlmSpec.load("deepseek-v3")) == {"dense": 3, "moe": 58}


def test_floor_holds_short_prompts_and_leaves_long_ones_as_they_are() -> None:
    table = with_floor(LAYER, prefill_ms=1.5)
    # LAYER is 1 ms and 0.01 ms a token: 1.5 ms at 50 tokens.
    for tokens, linear_ms in ((1, 1.5), (49, 1.5), (50, 1.5), (75, 1.75), (400, 5.0)):
        squares_ms = 1e-6 * tokens * tokens
        found = table.prefill_step_ms([tokens])
        assert found == pytest.approx(linear_ms + squares_ms)
    assert table.decode_step_ms(4, 10.0) == LAYER.decode_step_ms(4, 10.0)


def test_floor_above_all_that_was_measured_is_left_on_the_last_slope() -> None:
    table = with_floor(LAYER, prefill_ms=5.0)
    # 5 ms are reached at 400 tokens, beyond the last knot at 100.
    assert table.prefill_step_ms([300]) == pytest.approx(5.0 + 0.09)
    assert table.prefill_step_ms([600]) == pytest.approx(7.0 + 0.36)


def test_floor_below_everything_changes_nothing() -> None:
    table = with_floor(LAYER, prefill_ms=0.5)
    for tokens in (1, 60, 100, 300):
        assert table.prefill_step_ms([tokens]) == pytest.approx(
            LAYER.prefill_step_ms([tokens])
        )


def test_formats_that_stood_in_are_told_with_the_choice() -> None:
    honest = profile(1)
    odd = replace(
        honest,
        models=(replace(honest.models[0], stand_ins=("bf16 for 8-bit experts",)),),
    )
    for each, is_told in ((odd, True), (honest, False)):
        source = MeasuredSource(profile=each)
        found = LatencyLibrary(sources=(source,)).choose(request())
        told = "measured with bf16 for 8-bit experts" in found.reason
        assert told is is_told
        assert found.expected_error_frac == source.expected_error_frac


def test_measured_mixed_steps_of_layers_add_up_to_those_of_a_stage() -> None:
    """Two layers of 0.25 ms more beside any decodes; the ends were not measured."""
    extra = MixedExtra(batch=(1.0,), ms=(0.25,), per_kv_token_ms=(1e-4,))
    layer = replace(LAYER, mixed=extra)
    both = add_tables([layer.scaled(2), ENDS])
    plain = add_tables([LAYER.scaled(2), ENDS])
    assert plain.mixed is None
    for batch, kv in ((1, 100.0), (6, 900.0)):
        more = both.mixed_step_ms([64], None, batch, kv)
        more -= plain.mixed_step_ms([64], None, batch, kv)
        assert more == pytest.approx(2 * (0.25 + 1e-4 * kv))


def test_plans_with_a_profile_use_its_mixed_steps_at_every_parallelism() -> None:
    """Layers that were measured to take 0.25 ms more beside decodes: 16 of 32 a stage.

    All-reduces and hops change nothing of it, and a file keeps it.
    """
    extra = MixedExtra(batch=(1.0,), ms=(0.25,), per_kv_token_ms=(0.0,))
    plain = profile(1, 2)
    models = tuple(
        replace(
            model, parts=(part("dense", replace(LAYER, mixed=extra)), model.parts[1])
        )
        for model in plain.models
    )
    measured = replace(plain, models=models)
    assert from_mapping(Profile, to_mapping(measured)) == measured
    for asked in (request(pp=2), request(tp=2, pp=2)):
        tables = MeasuredSource(profile=measured).compile(asked)
        usual = MeasuredSource(profile=plain).compile(asked)
        for table, other in zip(tables, usual, strict=True):
            more = table.mixed_step_ms([64], None, 3, 90.0)
            more -= other.mixed_step_ms([64], None, 3, 90.0)
            assert more == pytest.approx(16 * 0.25)
