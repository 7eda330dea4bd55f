"""Probes: each touches one thing that a campaign needs of a device, once.

A probe gives a few words on what it found, or raises. What does not exist on a device
raises `NotHereError`: that is no failure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from clusters.fields import check_fields, spec
from clusters.units import GB, MS_PER_S, TERA, US_PER_MS
from models.llm import LlmSpec
from models.profile_records import Role, StepPoint, StepRecord
from profiler.cuda_clock import CudaClock
from profiler.engine import Chunk, Decodes, Engine, EngineLimits
from profiler.environment import Device, conditions_of, environment_of, other_users
from profiler.grid import GridLimits, GridPoint, decode_point
from profiler.layers.attention import why_not_varlen
from profiler.layers.batch import Sequences, build_batch
from profiler.layers.block import DecoderLayer
from profiler.layers.linear import random_tensor, why_not_fp8
from profiler.layers.moe import why_not_grouped
from profiler.layers.pointwise import pointwise_for
from profiler.layers.settings import LayerSettings
from profiler.measurer import TorchMeasurer
from profiler.sections import SM_SHARES
from profiler.sm_share import limiter_for
from profiler.sm_share_processes import why_no_processes
from profiler.steps import capture
from profiler.subject import Subject
from profiler.timing import CpuClock, DeviceClock, TimingSettings, measure

_TOLERANCE = 5e-2
QUICK = TimingSettings(target_ci_frac=0.1, max_s=0.3, min_samples=6, num_tries=1)
_HEADS = {
    "grouped queries": (32, 8, 128),
    "all heads": (40, 40, 128),
    "a few of each": (18, 18, 128),
}


class NotHereError(Exception):
    """What a probe is for does not exist on this device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What probes work on."""

    device: Device = spec("The device.")
    dtype: str = spec("Number format of the activations.")
    subjects: tuple[Subject, ...] = spec("Layers to run a few steps of.")
    limits: GridLimits = spec("Reach of the steps.")

    def __post_init__(self) -> None:
        check_fields(self)

    def needs_cuda(self) -> None:
        """Leave a probe that is for CUDA devices only."""
        if not self.device.is_cuda:
            raise NotHereError("no CUDA device")

    @property
    def torch_dtype(self) -> "torch.dtype":
        """Torch's format of the activations."""
        return LayerSettings.torch_dtype(self.dtype)

    def clock(self) -> DeviceClock:
        """The device's clock."""
        return CudaClock(self.device) if self.device.is_cuda else CpuClock()


Probe = Callable[[Bench], str]


class ProbeFailedError(Exception):
    """A probe found that something does not work; the message says why."""


def probes_of(subjects: Sequence[Subject]) -> dict[str, Probe]:
    """Every probe by its name, in the order that finds most first."""
    found: dict[str, Probe] = {
        "device": _device,
        "clocks and power": _conditions,
        "events and L2 flush": _events,
        "copy": _copy,
        "matmul": _matmul,
        "flash, ragged batches": _varlen,
        "fused elementwise steps": _fused,
        "fp8 products": _fp8,
        "grouped products": _grouped,
        "graph capture": _graphs,
        "SM shares": _sm_shares,
        "SM shares by processes": _processes,
    }
    for subject in subjects:
        found[f"layer {subject.describe()}"] = _LayerProbe(subject)
    if subjects:
        found["chunked prefill"] = _chunks
        found["engine"] = _engine
    return found


def _device(bench: Bench) -> str:
    where = environment_of(bench.device)
    others = other_users(bench.device)
    free, total = bench.device.free_bytes() / GB, where.memory_bytes / GB
    words = [
        where.device_name,
        f"{where.num_sms} SMs" if where.num_sms else "",
        f"{free:.0f} of {total:.0f} GB free",
        f"driver {where.driver}" if where.driver else "",
        f"CUDA {where.cuda}" if where.cuda else "",
        f"torch {where.torch}",
        others or "",
    ]
    return ", ".join(word for word in words if word)


def _conditions(bench: Bench) -> str:
    bench.needs_cuda()
    now = conditions_of(bench.device)
    values = {
        "SM MHz": now.sm_clock_mhz,
        "memory MHz": now.memory_clock_mhz,
        "W": now.power_w,
        "C": now.temperature_c,
    }
    missing = [unit for unit, value in values.items() if value is None]
    if len(missing) == len(values):
        raise ProbeFailedError("nothing can be read (is nvidia-ml-py installed?)")
    seen = [
        f"{value:.0f} {unit}" for unit, value in values.items() if value is not None
    ]
    return ", ".join(seen) + (f"; not readable: {missing}" if missing else "")


def _events(bench: Bench) -> str:
    clock = bench.clock()
    x = torch.ones(1 << 16, device=bench.device.torch_device)
    found = measure(lambda: x.add_(1.0), clock, QUICK).spread
    return f"a small step takes {found.ms * US_PER_MS:.1f} us (+-{found.ci_frac:.0%})"


def _copy(bench: Bench) -> str:
    num_bytes = 1 << (30 if bench.device.is_cuda else 24)
    source = torch.ones(num_bytes, dtype=torch.int8, device=bench.device.torch_device)
    target = torch.empty_like(source)
    found = measure(lambda: target.copy_(source), bench.clock(), QUICK).spread
    return f"{2 * num_bytes / found.ms * MS_PER_S / TERA:.3g} TB/s"


def _matmul(bench: Bench) -> str:
    width = 8192 if bench.device.is_cuda else 256
    where, dtype = bench.device.torch_device, bench.torch_dtype
    a = random_tensor(width, width, device=where, dtype=dtype, scale=1.0)
    found = measure(lambda: a @ a, bench.clock(), QUICK).spread
    return f"{2 * width**3 / found.ms * MS_PER_S / TERA:.3g} TFLOP/s in {bench.dtype}"


def _varlen(bench: Bench) -> str:
    bench.needs_cuda()
    where, dtype = bench.device.torch_device, bench.torch_dtype
    problems = {
        name: why
        for name, shape in _HEADS.items()
        if (why := why_not_varlen(where, dtype, shape))
    }
    if problems:
        raise ProbeFailedError("; ".join(f"{n}: {why}" for n, why in problems.items()))
    return f"right for {', '.join(_HEADS)}"


def _fused(bench: Bench) -> str:
    bench.needs_cuda()
    where, dtype = bench.device.torch_device, bench.torch_dtype
    has_fp8 = why_not_fp8(where, dtype) is None
    _, why_not = pointwise_for(where, dtype, has_fp8=has_fp8)
    return _told(why_not, "compiled, same results")


def _fp8(bench: Bench) -> str:
    why_not = why_not_fp8(bench.device.torch_device, bench.torch_dtype)
    return _told(why_not, "same results")


def _grouped(bench: Bench) -> str:
    bench.needs_cuda()
    why_not = why_not_grouped(bench.device.torch_device, bench.torch_dtype)
    return _told(why_not, "same results")


def _graphs(bench: Bench) -> str:
    bench.needs_cuda()
    a = torch.ones(256, 256, device=bench.device.torch_device)
    replay = capture(lambda: a @ a + 1.0)
    found = replay()
    assert isinstance(found, torch.Tensor)
    if float(found[0, 0]) != 257.0:
        raise ProbeFailedError(f"a replay gave {float(found[0, 0])}, not 257")
    step = measure(replay, bench.clock(), QUICK).spread
    return f"replayed in {step.ms * US_PER_MS:.1f} us"


def _sm_shares(bench: Bench) -> str:
    limiter, why_not = limiter_for(bench.device, SM_SHARES, bench.clock())
    if limiter is None:
        raise ProbeFailedError(why_not)
    shares = ", ".join(f"{share:.1%}" for share in limiter.shares)
    return f"{limiter.name}: {shares}"


def _processes(bench: Bench) -> str:
    why_not = why_no_processes(bench.device)
    if why_not:
        raise NotHereError(why_not)
    return "a CUDA MPS server is running"


class _LayerProbe:
    """One prefill, decode and mixed step of a layer."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def __call__(self, bench: Bench) -> str:
        measurer = TorchMeasurer(bench.device, dtype=bench.dtype, timing=QUICK)
        limits = bench.limits
        tokens, batch = limits.max_prompt_tokens, limits.max_requests
        decodes = decode_point(batch, limits.max_kv_tokens // batch)
        points = [StepPoint(new_tokens=(tokens,)), decodes]
        if not self._subject.is_ends:
            points.append(
                StepPoint(
                    new_tokens=(tokens // 4,),
                    num_decodes=batch,
                    kv_tokens=decodes.kv_tokens,
                )
            )
        if not self._subject.is_ends:
            measurer.reserve(self._subject, points)
        records = [
            measurer.measure(self._subject, GridPoint(point=point, role=Role.PROBE))
            for point in points
        ]
        return _steps_told(records)


def _steps_told(records: list[StepRecord]) -> str:
    failed = [record for record in records if record.step is None]
    if failed:
        why = f"{failed[0].point.describe()}: {failed[0].status}: {failed[0].note}"
        raise ProbeFailedError(why)
    times = [
        f"{record.point.phase} {record.step.ms:.3g} ms"
        for record in records
        if record.step is not None
    ]
    return f"{', '.join(times)} ({records[0].backend})"


def _chunks(bench: Bench) -> str:
    """A prompt in chunks and single tokens must give what it gives whole."""
    subject, where = bench.subjects[0], bench.device.torch_device
    settings = LayerSettings.for_device(where, bench.dtype)
    layer = DecoderLayer(subject.llm, subject.tp, subject.part, settings)
    x = random_tensor(
        40, subject.llm.hidden, device=where, dtype=settings.dtype, scale=1.0
    )

    def outputs(*steps: int) -> torch.Tensor:
        cache, found, end = layer.make_cache(64, settings), [], 0
        for new in steps:
            rows = x[end : end + new]
            end += new
            batch = build_batch(Sequences((new,), (end,), (8,)), where)
            out, residual = layer(rows, torch.zeros_like(rows), cache, batch)
            found.append(out + residual)
        return torch.cat(found).float()

    with torch.inference_mode():
        whole, parts = outputs(40), outputs(20, 17, 1, 1, 1)
    error_frac = float((whole - parts).norm() / whole.norm())
    # Written so that NaN never passes.
    if not error_frac < _TOLERANCE:
        raise ProbeFailedError(f"chunks differ from the whole by {error_frac:.1%}")
    return f"chunks and single tokens agree with the whole within {error_frac:.2%}"


def _engine(bench: Bench) -> str:
    """Two layers of the first model: captured, calibrated steps of every kind."""
    settings = LayerSettings.for_device(bench.device.torch_device, bench.dtype)
    llm = _shortened(bench.subjects[0].llm, num_layers=2)
    limits = EngineLimits(max_num_seqs=4, max_context_tokens=64)
    engine = Engine(llm, settings, limits)
    why_no_graphs = engine.prepare()
    prompt = list(range(1, 33))
    (token,), _ = engine.step([Chunk(0, 0, prompt)])
    engine.step([Chunk(1, 0, prompt[:20])], Decodes([0], [33], [token]))
    _, tokens = engine.step([], Decodes([0, 1], [34, 21], [token, token]))
    graphs = f"eager: {why_no_graphs}" if why_no_graphs else "decodes captured"
    return f"prompt, chunk and {len(tokens)} decodes ran ({graphs})"


def _shortened(llm: LlmSpec, *, num_layers: int) -> LlmSpec:
    """The model with its first layers only."""
    moe = llm.moe
    if moe is not None:
        dense = tuple(layer for layer in moe.dense_layers if layer < num_layers)
        moe = replace(moe, dense_layers=dense)
    windows = llm.windows[:num_layers]
    return replace(llm, num_layers=num_layers, moe=moe, windows=windows)


def _told(why_not: str | None, fine: str) -> str:
    if why_not:
        raise ProbeFailedError(why_not)
    return fine
