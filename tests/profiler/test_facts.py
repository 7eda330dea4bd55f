"""Facts about prefill and decode, worked out by hand for one table."""

import pytest

from models.latency.step_table import StepTable
from models.llm import LlmSpec
from models.profile_records import Environment, Spread, Status, StepPoint, StepRecord
from profiler.facts import (
    BATCHES,
    chunk_efficiency,
    decode_to_prefill,
    saturation_tokens,
    tile_edges,
)

# 1 ms up to 512 tokens, then 1/512 ms a token: full speed from 512 on. Decode takes
# 1 ms a step whatever the batch.
TABLE = StepTable(
    prefill_tokens=(512.0, 8192.0),
    prefill_ms=(1.0, 16.0),
    decode_batch=(1.0,),
    decode_ms=(1.0,),
    decode_per_kv_token_ms=(0.0,),
)


def record(tokens: int, ms: float, **point: object) -> StepRecord:
    return StepRecord(
        environment=Environment(device="synthetic", device_name="p", gpu="p"),
        llm=LlmSpec.load("opt-13b"),
        tp=1,
        part="dense",
        dtype="bf16",
        point=StepPoint(new_tokens=(tokens,), **point),
        status=Status.OK,
        step=Spread(ms=ms, p10_ms=ms, p90_ms=ms, ci_frac=0.0, num_samples=9),
    )


def test_prefill_saturates_where_tokens_a_second_stop_rising() -> None:
    assert saturation_tokens(TABLE) == 512


def test_decoded_token_costs_a_step_shared_by_the_batch() -> None:
    # 1024 prefilled tokens take 2 ms: 1/512 ms each. A decoded one takes 1/B ms.
    ratios = decode_to_prefill(TABLE)
    assert ratios == pytest.approx([512.0 / batch for batch in BATCHES])


def test_chunks_below_saturation_waste_the_device() -> None:
    # 4096 tokens take 8 ms whole. In chunks of 256 they take 16 x 1 ms, from 512 on 8.
    found = chunk_efficiency(TABLE, 4096)
    assert found == pytest.approx(
        {128: 0.25, 256: 0.5, 512: 1.0, 1024: 1.0, 2048: 1.0, 4096: 1.0}
    )
    # Prompts shorter than a chunk have none, and the last chunk is what is left.
    assert chunk_efficiency(TABLE, 300) == pytest.approx({128: 1 / 3, 256: 0.5})


def test_chunks_pay_for_what_they_attend_to() -> None:
    """Two chunks attend to as many pairs as the whole: squares add up."""
    table = StepTable(
        prefill_tokens=(0.0, 1.0),
        prefill_ms=(0.0, 0.0),
        prefill_per_sq_token_ms=1e-6,
        decode_batch=(1.0,),
        decode_ms=(1.0,),
        decode_per_kv_token_ms=(0.0,),
    )
    assert chunk_efficiency(table, 4096) == pytest.approx(
        {n: 1.0 for n in (128, 256, 512, 1024, 2048, 4096)}
    )


def test_tile_edge_is_one_token_more_over_the_edge() -> None:
    records = [record(256, 1.0), record(257, 1.32), record(512, 2.0)]
    records.append(record(513, 9.0, past_tokens=(100,)))  # a chunk, not a prompt
    (edge,) = tile_edges(records)
    assert edge.tokens == 256
    assert edge.extra_frac == pytest.approx(0.32)
