"""Whatever the shape of the batch, every token attends to what came before it."""

import pytest

torch = pytest.importorskip("torch", reason="the profiler needs torch")

from profiler.features import LEFT_OUT  # noqa: E402
from profiler.layers import attention  # noqa: E402
from profiler.layers.attention import (  # noqa: E402
    KvCache,
    _agrees,
    attend_one_by_one,
    attend_sdpa,
    attend_varlen,
    attention_for,
    causal_mask,
    why_not_varlen,
)
from profiler.layers.batch import Sequences, StepBatch, build_batch  # noqa: E402
from profiler.layers.linear import random_tensor  # noqa: E402

CPU = torch.device("cpu")


def cache(rows: int) -> KvCache:
    return KvCache.allocate(rows, 2, 16, device=CPU, dtype=torch.float32)


def queries(tokens: int) -> torch.Tensor:
    return random_tensor(tokens, 4, 16, device=CPU, dtype=torch.float32, scale=1.0)


def by_hand(
    asked: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None
) -> torch.Tensor:
    """Softmax attention of the last tokens, head by head; two query heads share one."""
    new, kv = asked.shape[0], keys.shape[0]
    out = torch.empty_like(asked)
    for head in range(asked.shape[1]):
        for token in range(new):
            last = kv - new + token
            first = 0 if window is None else max(0, last - window + 1)
            seen = slice(first, last + 1)
            scores = keys[seen, head // 2] @ asked[token, head] / 16**0.5
            out[token, head] = scores.softmax(0) @ values[seen, head // 2]
    return out


@pytest.mark.parametrize("window", [None, 3], ids=["all", "window"])
@pytest.mark.parametrize(
    "sequences",
    [
        Sequences((7,), (7,), (0,)),
        Sequences((3,), (9,), (4,)),
        Sequences((1, 1, 1), (5, 5, 5), (0, 5, 10)),
        Sequences((1, 1), (8, 3), (20, 0)),
        Sequences((4, 1, 2), (4, 6, 9), (0, 10, 20)),
    ],
    ids=["prompt", "chunk", "decodes_alike", "decodes", "mixed"],
)
def test_attention_is_softmax_over_what_came_before(
    sequences: Sequences, window: int | None
) -> None:
    batch, held = build_batch(sequences, CPU), cache(32)
    asked = queries(batch.num_tokens)
    found = attend_sdpa(asked, held, batch, window)
    token = 0
    for new, kv, first in zip(
        sequences.new_tokens, sequences.kv_tokens, sequences.first_rows, strict=True
    ):
        rows = slice(first, first + kv)
        exact = by_hand(
            asked[token : token + new], held.keys[rows], held.values[rows], window
        )
        torch.testing.assert_close(found[token : token + new], exact)
        token += new


def test_new_tokens_are_written_to_their_rows() -> None:
    batch, held = build_batch(Sequences((2,), (5,), (10,)), CPU), cache(16)
    keys, values = torch.ones(2, 2, 16), 2 * torch.ones(2, 2, 16)
    held.write(keys, values, batch)
    # Tokens 3 and 4 of a request that starts at row 10.
    torch.testing.assert_close(held.keys[13:15], keys)
    torch.testing.assert_close(held.values[13:15], values)


def test_mask_ends_with_the_last_token_seeing_all() -> None:
    assert causal_mask(2, 4, None, device=CPU).int().tolist() == [
        [1, 1, 1, 0],
        [1, 1, 1, 1],
    ]
    assert causal_mask(2, 4, 2, device=CPU).int().tolist() == [
        [0, 1, 1, 0],
        [0, 0, 1, 1],
    ]


def test_processor_uses_torch_attention() -> None:
    name, _ = attention_for(
        CPU, torch.float32, num_heads=4, num_kv_heads=2, head_dim=16
    )
    assert name == "sdpa"


@pytest.mark.parametrize("window", [None, 64], ids=["all", "window"])
@pytest.mark.parametrize(
    "sequences",
    [Sequences((1, 1), (17, 90), (100, 0)), Sequences((20, 7), (20, 71), (0, 100))],
    ids=["decodes", "prompts"],
)
def test_flash_kernel_is_called_as_this_torch_wants_it(
    sequences: Sequences, window: int | None
) -> None:
    """On a device that has shapes and no numbers: it is CUDA's call otherwise."""
    meta, kind = torch.device("meta"), torch.bfloat16
    held = KvCache(
        torch.empty(256, 8, 128, device=meta, dtype=kind),
        torch.empty(256, 8, 128, device=meta, dtype=kind),
    )
    batch = build_batch(sequences, meta)
    asked = torch.empty(batch.num_tokens, 32, 128, device=meta, dtype=kind)
    assert attend_varlen(asked, held, batch, window).shape == asked.shape


def test_kernel_is_believed_only_with_the_right_numbers() -> None:
    def wrong(
        asked: torch.Tensor, held: KvCache, batch: StepBatch, window: int | None
    ) -> torch.Tensor:
        found = attend_one_by_one(asked, held, batch, window)
        found[-1] *= float("nan")  # one token of many
        return found

    shape = (4, 2, 16)
    assert _agrees(attend_sdpa, shape, CPU, torch.float32)
    assert not _agrees(wrong, shape, CPU, torch.float32)


def test_kernel_that_does_not_work_here_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nSorry")

    monkeypatch.setattr(attention, "attend_varlen", broken)
    told = "FlashAttention only supports Ampere GPUs or newer."
    assert why_not_varlen(CPU, torch.float32, (4, 2, 16)) == told
    monkeypatch.setattr(attention, "attend_varlen", attend_sdpa)
    assert why_not_varlen(CPU, torch.float32, (4, 2, 16)) is None
    monkeypatch.setenv(LEFT_OUT, "varlen")
    assert why_not_varlen(CPU, torch.float32, (4, 2, 16)) == (f"left out by {LEFT_OUT}")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_uses_the_flash_kernel_for_ragged_batches() -> None:
    device = torch.device("cuda")
    name, attend = attention_for(
        device, torch.bfloat16, num_heads=32, num_kv_heads=8, head_dim=128
    )
    assert name == "varlen"
    held = KvCache.allocate(512, 8, 128, device=device, dtype=torch.bfloat16)
    batch = build_batch(Sequences((40, 1), (90, 200), (300, 0)), device)
    asked = random_tensor(41, 32, 128, device=device, dtype=torch.bfloat16, scale=1.0)
    exact = attend_one_by_one(asked, held, batch, None).float()
    found = attend(asked, held, batch, None).float()
    assert float((found - exact).norm() / exact.norm()) < 2e-2
