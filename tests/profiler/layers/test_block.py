"""A layer gives the same answer however its tokens are batched."""

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", reason="the profiler needs torch")

from clusters.gpu import Dtype  # noqa: E402
from models.flops import stage_shapes  # noqa: E402
from models.latency.profile import part_of  # noqa: E402
from models.llm import LlmSpec, MlaSpec, MoeSpec, Precision  # noqa: E402
from models.parallelism import Parallelism  # noqa: E402
from profiler.layers.batch import Sequences, build_batch  # noqa: E402
from profiler.layers.block import DecoderLayer, Ends  # noqa: E402
from profiler.layers.settings import LayerSettings  # noqa: E402

CPU = torch.device("cpu")
SETTINGS = LayerSettings(device=CPU, dtype=torch.float32)
TOKENS = 12

MLA = MlaSpec(
    q_lora_rank=32,
    kv_lora_rank=32,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=16,
)
MOE = MoeSpec(
    num_experts=8, experts_per_token=2, expert_intermediate=32, shared_intermediate=32
)
KINDS = {
    "gqa": {},
    "mha_relu": {"learned_positions": True, "mlp_matrices": 2, "num_kv_heads": 4},
    "qk_norm": {"qk_norm": True},
    "window": {"windows": (4,) * 4},
    "moe": {"moe": MOE},
    "mla": {"mla": MLA, "num_kv_heads": 4},
    "mla_full_rank": {
        "mla": MlaSpec(
            kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16
        ),
        "num_kv_heads": 4,
    },
}


@pytest.fixture(params=KINDS, ids=str)
def llm(request: pytest.FixtureRequest, changed: Callable[..., LlmSpec]) -> LlmSpec:
    return changed(**KINDS[request.param])


def run(
    llm: LlmSpec, layer: DecoderLayer, steps: list[Sequences], inputs: torch.Tensor
) -> torch.Tensor:
    """Outputs of all tokens, step after step on one cache."""
    cache = layer.make_cache(64, SETTINGS)
    found, token = [], 0
    for sequences in steps:
        new = sum(sequences.new_tokens)
        x = inputs[token : token + new]
        batch = build_batch(sequences, CPU)
        out, residual = layer(x, torch.zeros_like(x), cache, batch)
        found.append(out + residual)
        token += new
    return torch.cat(found)


def test_chunks_and_decodes_give_what_the_whole_prompt_gives(llm: LlmSpec) -> None:
    layer = DecoderLayer(llm, 1, part_of(llm, 0), SETTINGS)
    inputs = torch.randn(TOKENS, llm.hidden, generator=torch.Generator().manual_seed(0))
    whole = run(llm, layer, [Sequences((TOKENS,), (TOKENS,), (8,))], inputs)
    chunks = [Sequences((n,), (end,), (8,)) for n, end in ((5, 5), (4, 9))]
    decodes = [Sequences((1,), (end,), (8,)) for end in (10, 11, 12)]
    in_steps = run(llm, layer, chunks + decodes, inputs)
    torch.testing.assert_close(in_steps, whole, rtol=2e-3, atol=2e-4)


def test_requests_do_not_see_each_other(llm: LlmSpec) -> None:
    layer = DecoderLayer(llm, 1, part_of(llm, 0), SETTINGS)
    inputs = torch.randn(9, llm.hidden, generator=torch.Generator().manual_seed(1))
    together = run(llm, layer, [Sequences((5, 4), (5, 4), (0, 32))], inputs)
    alone = run(llm, layer, [Sequences((4,), (4,), (16,))], inputs[5:])
    torch.testing.assert_close(together[5:], alone, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("tp", [1, 2])
def test_weights_are_those_the_planner_counts(llm: LlmSpec, tp: int) -> None:
    """The layer under test and `models.flops` hold the same matrices."""
    layer = DecoderLayer(llm, tp, part_of(llm, 0), SETTINGS)
    (stage,) = stage_shapes(llm, Parallelism(tp=tp))
    counted = sum(gemm.num_weights for gemm in stage.groups[0].gemms)
    assert layer.weight_bytes == 4 * counted


def test_ends_give_one_token_a_request(tiny_llm: LlmSpec) -> None:
    ends = Ends(tiny_llm, 1, SETTINGS)
    batch = build_batch(Sequences((3, 1), (3, 7), (0, 10)), CPU)
    embedded = ends.embed(torch.tensor([1, 2, 3, 4]))
    assert embedded.shape == (4, tiny_llm.hidden)
    tokens = ends.next_tokens(embedded, batch)
    assert tokens.shape == (2,)
    # Only the last token of each request decides.
    swapped = embedded.clone()
    swapped[:2] = 0.0
    assert torch.equal(ends.next_tokens(swapped, batch), tokens)


def test_fp8_layer_stays_close_to_the_plain_one(tiny_llm: LlmSpec) -> None:
    settings = LayerSettings.for_device(CPU, "bf16")
    if not settings.has_fp8:
        pytest.skip("this torch multiplies no fp8 on a CPU")
    precision = Precision.uniform(Dtype.FP8)
    from dataclasses import replace

    llm = replace(tiny_llm, precision=precision)
    outputs = []
    for each in (tiny_llm, llm):
        layer = DecoderLayer(each, 1, "dense", settings)
        cache = layer.make_cache(16, settings)
        x = torch.randn(
            8, 64, generator=torch.Generator().manual_seed(2), dtype=torch.bfloat16
        )
        batch = build_batch(Sequences((8,), (8,), (0,)), CPU)
        outputs.append(layer(x, torch.zeros_like(x), cache, batch)[0].float())
    error = (outputs[1] - outputs[0]).norm() / outputs[0].norm()
    assert 0 < float(error) < 0.1
