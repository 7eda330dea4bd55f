"""Out of memory is a result: points that do not fit are recorded, not lost."""

from collections.abc import Callable
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the profiler needs torch")

from clusters.gpu import Dtype  # noqa: E402
from models.llm import LlmSpec, Precision, WeightFormat  # noqa: E402
from models.profile_records import Role, Status, StepPoint  # noqa: E402
from profiler.environment import Device, catalog_name, environment_of  # noqa: E402
from profiler.grid import GridLimits, GridPoint, num_rows  # noqa: E402
from profiler.measurer import TorchMeasurer  # noqa: E402
from profiler.steps import StepRunner, slope_of  # noqa: E402
from profiler.subject import Subject  # noqa: E402
from profiler.timing import Measurement, TimingSettings, spread_of  # noqa: E402

QUICK = TimingSettings(target_ci_frac=0.5, max_s=0.1, min_samples=6, num_tries=1)
LIMITS = GridLimits(
    max_prompt_tokens=64,
    max_past_tokens=64,
    max_requests=4,
    max_context_tokens=64,
    max_kv_tokens=256,
)


@pytest.fixture
def measurer() -> TorchMeasurer:
    return TorchMeasurer(Device.open("cpu"), dtype="fp32", timing=QUICK)


def test_points_that_memory_has_no_room_for_are_recorded_as_such(
    measurer: TorchMeasurer, tiny_llm: LlmSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 4 layers of 32768 weights and 256 bytes of fp32 K and V a token: 1 MB is little.
    monkeypatch.setattr(Device, "free_bytes", lambda _: 1_000_000)
    subject = Subject(llm=tiny_llm, part="dense", dtype="fp32")
    grid = measurer.grid(subject, GridLimits())
    assert num_rows(grid) == GridLimits().max_kv_tokens
    records = [measurer.measure(subject, target) for target in grid[::6]]
    statuses = {record.status for record in records}
    assert Status.OOM in statuses
    failed = next(r for r in records if r.status is Status.OOM)
    assert failed.step is None
    assert "rows of KV cache" in failed.note


def test_running_out_of_memory_is_recorded_and_the_next_point_measured(
    measurer: TorchMeasurer, tiny_llm: LlmSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Subject(llm=tiny_llm, part="dense", dtype="fp32")
    target = measurer.grid(subject, LIMITS)[0]
    whole = StepRunner.measure

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(StepRunner, "measure", full)
    failed = measurer.measure(subject, target)
    assert (failed.status, failed.step) == (Status.OOM, None)
    assert "Tried to allocate" in failed.note
    monkeypatch.setattr(StepRunner, "measure", whole)
    assert measurer.measure(subject, target).step is not None


@pytest.mark.parametrize("part", ["dense", "ends"])
@pytest.mark.parametrize(
    "point",
    [
        StepPoint(new_tokens=(16,)),
        StepPoint(new_tokens=(8,), past_tokens=(24,)),
        StepPoint(num_decodes=3, kv_tokens=40.0),
        StepPoint(new_tokens=(8,), num_decodes=2, kv_tokens=20.0),
    ],
    ids=StepPoint.describe,
)
def test_every_kind_of_step_is_measured(
    measurer: TorchMeasurer, tiny_llm: LlmSpec, part: str, point: StepPoint
) -> None:
    subject = Subject(llm=tiny_llm, part=part, dtype="fp32")
    measurer.grid(subject, LIMITS)
    record = measurer.measure(subject, GridPoint(point=point, role=Role.PROBE))
    assert record.step is not None
    assert record.role is Role.PROBE
    assert "eager" in record.backend


def test_format_that_no_kernel_has_is_told_with_the_number(
    measurer: TorchMeasurer, changed: Callable[..., LlmSpec]
) -> None:
    plain = Precision.uniform(Dtype.BF16)
    narrow = WeightFormat(bytes_per_weight=0.5, compute_dtype=Dtype.BF16)
    llm = changed(precision=replace(plain, mlp=narrow))
    target = GridPoint(point=StepPoint(new_tokens=(8,)))
    notes = {}
    for part in ("dense", "ends"):
        subject = Subject(llm=llm, part=part, dtype="fp32")
        measurer.grid(subject, LIMITS)
        record = measurer.measure(subject, target)
        assert record.step is not None
        notes[part] = record.note
    assert notes == {"dense": "fp32 for 4-bit feed-forward", "ends": ""}


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_shards_are_measured_beyond_the_kv_heads(
    measurer: TorchMeasurer, changed: Callable[..., LlmSpec], tp: int
) -> None:
    subject = Subject(llm=changed(), tp=tp, part="dense", dtype="fp32")
    measurer.grid(subject, LIMITS)
    point = GridPoint(point=StepPoint(new_tokens=(8,)))
    assert measurer.measure(subject, point).step is not None


def test_time_of_a_layer_is_the_slope_over_layers() -> None:
    def run(ms: float) -> Measurement:
        import numpy as np

        return Measurement(spread=spread_of(np.full(9, ms)), is_stable=True)

    # One layer 3 ms, four 9 ms: 2 ms each, and 1 ms that does not grow.
    found, fixed_ms = slope_of(run(3.0), run(9.0), (1, 4))
    assert found.spread.ms == pytest.approx(2.0)
    assert fixed_ms == pytest.approx(1.0)
    # A short run as slow as the long one is noise, and marked.
    found, fixed_ms = slope_of(run(9.0), run(9.0), (1, 4))
    assert not found.is_stable
    assert found.spread.ms == pytest.approx(9.0 / 4)


@pytest.mark.parametrize(
    ("driver_name", "name"),
    [
        ("NVIDIA H200", "h200_sxm"),
        ("NVIDIA H20", "h20"),
        ("NVIDIA H100 80GB HBM3", "h100_sxm"),
        ("NVIDIA H100 PCIe", "h100_pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100_sxm"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("Some Other GPU", "some_other_gpu"),
    ],
)
def test_driver_names_are_matched_with_the_catalogue(
    driver_name: str, name: str
) -> None:
    assert catalog_name(driver_name) == name


def test_environment_names_device_and_versions() -> None:
    found = environment_of(Device.open("cpu"), gpu="mine")
    assert (found.device, found.gpu) == ("cpu", "mine")
    assert found.torch == torch.__version__
    assert found.memory_bytes > 0
