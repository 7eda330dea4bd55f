"""Records survive kills and corrupt lines, and are never mixed silently."""

from dataclasses import replace
from pathlib import Path

import pytest

from clusters.fields import InputError
from models.llm import LlmSpec
from models.profile_records import (
    Environment,
    RateRecord,
    Spread,
    Status,
    StepPoint,
    StepRecord,
)
from models.profile_table import (
    ProfileTable,
    RecordWriter,
    format_record,
    parse_record,
    read_profile_table,
    write_profile_table,
)

HERE = Environment(
    device="synthetic", device_name="paper", gpu="h200_sxm", torch="2.11"
)
SPREAD = Spread(ms=2.0, p10_ms=1.9, p90_ms=2.1, ci_frac=0.01, num_samples=20)


def step(
    tokens: int, *, environment: Environment = HERE, ms: float = 2.0
) -> StepRecord:
    return StepRecord(
        environment=environment,
        llm=LlmSpec.load("opt-13b"),
        tp=1,
        part="dense",
        dtype="bf16",
        point=StepPoint(new_tokens=(tokens,)),
        status=Status.OK,
        step=replace(SPREAD, ms=ms),
    )


def rate() -> RateRecord:
    return RateRecord(
        environment=HERE,
        name="copy",
        per_s=4e12,
        rate_unit="bytes/s",
        size="4 GB",
        spread=SPREAD,
    )


@pytest.mark.parametrize("record", [step(16), rate()], ids=["step", "rate"])
def test_record_reads_back_as_it_was(record: StepRecord | RateRecord) -> None:
    assert parse_record(format_record(record).encode()) == record


@pytest.mark.parametrize("name", ["records.jsonl", "records.jsonl.gz"])
def test_file_reads_back_as_it_was(tmp_path: Path, name: str) -> None:
    records = (step(16), rate(), step(32))
    write_profile_table(tmp_path / name, records)
    assert read_profile_table(tmp_path / name) == ProfileTable(records=records)


def test_corrupt_line_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    lines = [format_record(step(16)), '{"kind": "step", \n', format_record(step(32))]
    path.write_text("".join(lines))
    table = read_profile_table(path)
    assert [r.point.prompt_tokens for r in table.steps] == [16, 32]
    assert len(table.problems) == 1
    assert table.problems[0].startswith(f"{path}:2: left out:")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"ms": 2.0', '"ms": -2.0', "step.ms"),
        ('"ms": 2.0', '"ms": NaN', "step.ms"),
        ('"tp": 1', '"tpp": 1', "tpp"),
        ('"status": "ok"', '"status": "fine"', "status"),
        ('"status": "ok"', '"status": "oom"', "step"),
    ],
    ids=["negative", "nan", "unknown_key", "unknown_status", "number_without_status"],
)
def test_impossible_record_names_its_field(old: str, new: str, named: str) -> None:
    line = format_record(step(16)).replace(old, new)
    with pytest.raises(InputError, match=named):
        parse_record(line.encode())


def test_unfinished_line_of_a_killed_writer_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    whole, half = format_record(step(16)), format_record(step(32))[:40]
    path.write_text(whole + half)
    with RecordWriter(path) as writer:
        writer.append(step(64))
    assert path.read_text() == whole + format_record(step(64))


def test_record_is_on_the_disk_before_the_writer_is_closed(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "r.jsonl") as writer:
        writer.append(step(16))
        assert len(read_profile_table(tmp_path / "r.jsonl").records) == 1


@pytest.mark.parametrize(
    ("field", "value"), [("gpu", "a100_sxm"), ("driver", "580"), ("torch", "2.12")]
)
def test_records_of_two_environments_are_not_mixed(field: str, value: str) -> None:
    other = replace(HERE, **{field: value})
    table = ProfileTable(records=(step(16), step(32, environment=other)))
    with pytest.raises(InputError, match=rf"records\[1\].environment.{field}"):
        table.environment()
    assert table.only(**{field: value}).environment() == other


def test_point_measured_again_counts_once_with_its_last_time() -> None:
    table = ProfileTable(records=(step(16, ms=2.0), step(16, ms=3.0)))
    (record,) = table.steps
    assert record.step is not None
    assert record.step.ms == 3.0


def test_unwritable_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can be written"):
        RecordWriter(tmp_path / "no" / "such" / "folder.jsonl")


def test_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="existing file"):
        read_profile_table(tmp_path / "none.jsonl")


def test_squares_count_past_tokens_twice() -> None:
    # 10 new after 100: 10^2 + 2*10*100 = 2100; 5 new alone: 25.
    point = StepPoint(new_tokens=(10, 5), past_tokens=(100, 0))
    assert point.squares == 2125.0


def test_step_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="new_tokens"):
        StepPoint()
