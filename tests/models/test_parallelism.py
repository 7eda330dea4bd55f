"""Parallelism: degrees, stages and what divides what."""

from dataclasses import replace

import pytest

from clusters.fields import InputError
from clusters.mapping import from_mapping, to_mapping
from models.llm import LinearAttentionSpec, LlmSpec
from models.parallelism import Parallelism


def test_prints_as_people_write_it() -> None:
    assert str(Parallelism(tp=2)) == "TP2 PP1"
    assert str(Parallelism(tp=8, pp=2, ep=8, stage_layers=(3, 2))) == "TP8 PP2 EP8 3+2"


def test_experts_share_the_gpus_of_tensor_and_attention_parallelism() -> None:
    assert Parallelism(tp=2, pp=3, cp=2, attention_dp=2, ep=4).num_gpus == 24


def test_the_first_stages_take_the_remaining_layers() -> None:
    # 40 layers on 3 stages: 13 each and one left for the first.
    llm = LlmSpec.load("opt-13b")
    assert Parallelism(pp=3).layers_per_stage(llm) == (14, 13, 13)
    assert Parallelism(pp=2, stage_layers=(30, 10)).layers_per_stage(llm) == (30, 10)


@pytest.mark.parametrize(
    ("name", "parallelism", "reason"),
    [
        ("opt-13b", Parallelism(tp=3), "TP3 does not divide the 40 heads"),
        ("opt-13b", Parallelism(pp=41), "PP41 has more stages than the 40 layers"),
        (
            "opt-13b",
            Parallelism(pp=2, stage_layers=(20, 19)),
            "the stages hold 39 layers, the model has 40",
        ),
        ("opt-13b", Parallelism(ep=2), "EP2 needs a mixture of experts"),
        (
            "mixtral-8x7b",
            Parallelism(tp=3, ep=3),
            "TP3 does not divide the 32 heads",
        ),
        (
            "mixtral-8x7b",
            Parallelism(tp=2, ep=16),
            "EP16 does not divide the 8 experts",
        ),
        (
            "mixtral-8x7b",
            Parallelism(tp=2, ep=4),
            "EP4 does not divide the 2 GPUs a stage",
        ),
    ],
)
def test_says_why_a_model_cannot_be_split(
    name: str, parallelism: Parallelism, reason: str
) -> None:
    assert parallelism.why_not(LlmSpec.load(name)) == reason


def test_tp_beyond_the_kv_heads_is_allowed_when_it_is_a_multiple() -> None:
    llm = LlmSpec.load("qwen3-235b-a22b")  # 64 query heads, 4 KV heads
    assert Parallelism(tp=8).why_not(llm) is None
    assert Parallelism(tp=8).why_not(replace(llm, num_kv_heads=64)) is None
    # 12 heads in groups of 4: TP6 is neither a divisor nor a multiple of 4 KV heads.
    odd = replace(LlmSpec.load("opt-13b"), num_heads=12, num_kv_heads=4)
    assert "KV heads" in str(Parallelism(tp=6).why_not(odd))


def test_experts_are_spread_over_all_ranks_of_a_stage() -> None:
    deepseek = LlmSpec.load("deepseek-v3")  # 256 experts, 2048 wide
    assert Parallelism(tp=8, ep=16, attention_dp=2).why_not(deepseek) is None
    assert Parallelism(ep=8, cp=8).why_not(deepseek) is None
    why = Parallelism(ep=3, attention_dp=8).why_not(deepseek)
    assert why == "EP3 does not divide the 256 experts"
    # Nobody splits experts among 24 ranks: each is 24 times as narrow, not a whole.
    why = Parallelism(attention_dp=24).why_not(deepseek)
    assert why == "TP24 does not divide the expert width 2048"


def test_ranks_need_something_to_share() -> None:
    dense = LlmSpec.load("llama-3.1-8b")
    state = LinearAttentionSpec(
        layers=(0,),
        num_key_heads=2,
        num_value_heads=2,
        key_head_dim=8,
        value_head_dim=8,
        conv_kernel=4,
    )
    linear = replace(dense, linear=state)
    why = str(Parallelism(attention_dp=2).why_not(dense))
    assert why.startswith("attention DP2 needs a mixture of experts")
    assert Parallelism(cp=2).why_not(dense) is None
    why = str(Parallelism(cp=2).why_not(linear))
    assert why == "CP2 cannot split layers that carry a state along a prompt"


@pytest.mark.parametrize(
    "stage_layers", [(40,), (20, 20, 0), (20, 10, 5, 5), (41, -1, 0)]
)
def test_stage_layers_must_be_one_positive_number_a_stage(
    stage_layers: tuple[int, ...],
) -> None:
    with pytest.raises(InputError, match="stage_layers"):
        Parallelism(pp=3, stage_layers=stage_layers)


def test_degrees_below_one_are_refused() -> None:
    with pytest.raises(InputError, match=r"tp = 0: expected a number >= 1"):
        Parallelism(tp=0)


ASYMMETRIC = Parallelism(tp=4, pp=2, stage_tp=(4, 2), stage_layers=(48, 32))


def test_unlike_stages_have_gpus_of_their_own() -> None:
    assert ASYMMETRIC.stage_widths == (4, 2)
    assert ASYMMETRIC.num_gpus == 6
    assert str(ASYMMETRIC) == "TP4+2 PP2 48+32"
    assert ASYMMETRIC.of_stage(1) == Parallelism(tp=2, pp=2, stage_layers=(48, 32))
    assert Parallelism(tp=2, pp=3).stage_widths == (2, 2, 2)
    assert Parallelism(tp=2).of_stage(0) == Parallelism(tp=2)


def test_every_stage_must_divide_the_model() -> None:
    llm = LlmSpec.load("opt-13b")  # 40 heads
    odd = Parallelism(tp=4, pp=2, stage_tp=(4, 3))
    assert odd.why_not(llm) == "TP3 does not divide the 40 heads"
    assert Parallelism(tp=4, pp=2, stage_tp=(4, 2)).why_not(llm) is None


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"tp": 4, "pp": 2, "stage_tp": (4,)}, "stage_tp"),
        ({"tp": 4, "pp": 2, "stage_tp": (4, 0)}, "stage_tp"),
        ({"tp": 2, "pp": 2, "stage_tp": (4, 2)}, "tp"),
        ({"tp": 4, "pp": 2, "stage_tp": (4, 2), "ep": 2}, "stage_tp"),
        ({"tp": 4, "pp": 2, "stage_tp": (4, 2), "attention_dp": 2}, "stage_tp"),
    ],
)
def test_stages_that_cannot_be_are_refused(given: dict, key: str) -> None:
    with pytest.raises(InputError) as error:
        Parallelism(**given)
    assert error.value.key == key
    assert "\n" not in str(error.value)


def test_files_tell_of_unlike_stages_only_where_there_are_some() -> None:
    assert "stage_tp" not in to_mapping(Parallelism(tp=2, pp=2))
    written = to_mapping(ASYMMETRIC)
    assert written["stage_tp"] == [4, 2]
    assert from_mapping(Parallelism, written) == ASYMMETRIC
