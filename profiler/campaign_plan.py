"""CampaignPlan: what one command on a GPU machine does with its minutes."""

from dataclasses import dataclass

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import nearest
from models.flops import stage_shapes
from models.llm import LlmSpec
from models.memory import kv_bytes_per_token
from models.parallelism import Parallelism
from profiler.campaign import CampaignSettings
from profiler.engine import EngineLimits
from profiler.environment import Device
from profiler.grid import GridLimits
from profiler.layers.linear import why_not_fp8
from profiler.layers.settings import LayerSettings
from profiler.subject import Subject, subjects_of
from profiler.suite import SUITES, suite_subjects

_SERVE_SHARE = 0.22
"""Of the time, what validation may serve for, all loads together."""
_SETUP_SHARE = 0.1
"""For building the engine, calibration, compilation, the report."""
_SMALL_LIMITS = GridLimits(
    max_prompt_tokens=256,
    max_past_tokens=256,
    max_requests=16,
    max_context_tokens=256,
    max_kv_tokens=2048,
)
_ARRIVAL_SHARE = 0.75
"""Of the time of a load; the rest is for the last answers."""
_FEWEST_REQUESTS = 20
_MAX_SLOTS = 128
_SLOT_TOKENS = 4096
_MEMORY_SHARE = 0.8
_LOADS = (0.5, 0.85, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationPlan:
    """What is served to hold the simulator to it."""

    limits: EngineLimits = spec("Sizes of the engine.")
    lengths: str = spec("Length preset, or INPUTxOUTPUT tokens.")
    loads: tuple[float, ...] = spec("Shares of the capacity.", unit="1", default=_LOADS)
    num_requests: int | None = spec(
        "Requests a load; None: as many as the time allows.",
        unit="requests",
        default=None,
    )
    max_s: float = spec("Longest run of a load.", unit="s", gt=0)
    ttft_ms: float = spec("Limit of a good request.", unit="ms", gt=0, default=2000.0)
    tpot_ms: float = spec("Limit of a good request.", unit="ms", gt=0, default=30.0)
    seed: int = spec("Seed of arrivals and lengths.", unit="1", ge=0, default=0)

    def __post_init__(self) -> None:
        check_fields(self)

    def num_requests_at(self, rate_rps: float) -> int:
        """Requests of a load: as asked, or those that arrive in most of the time."""
        if self.num_requests is not None:
            return self.num_requests
        return max(_FEWEST_REQUESTS, int(_ARRIVAL_SHARE * self.max_s * rate_rps))


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignPlan:
    """Subjects, their grid and budget, and the validation."""

    subjects: tuple[Subject, ...] = spec("What is measured, the first is served.")
    settings: CampaignSettings = spec("Grid and budget.")
    dtype: str = spec("Number format of the activations.")
    validation: ValidationPlan = spec("What is served.")


def plan_campaign(
    device: Device,
    *,
    suite: str = "full",
    model: str | None = None,
    dtype: str = "bf16",
    minutes: float = 8.0,
    small: bool = False,
) -> CampaignPlan:
    """Share the minutes between measuring and validating.

    Raises
    ------
    InputError
        On an unknown suite or model.
    """
    total_s = minutes * 60.0
    if model is not None:
        subjects = subjects_of(LlmSpec.load(model), (1,), dtype=dtype)
    elif suite in SUITES:
        torch_dtype = LayerSettings.torch_dtype(dtype)
        has_fp8 = why_not_fp8(device.torch_device, torch_dtype) is None
        subjects = suite_subjects(SUITES[suite], dtype=dtype, has_fp8=has_fp8)
    else:
        raise InputError("--suite", suite, f"a suite ({nearest(suite, SUITES)})")
    return CampaignPlan(
        subjects=subjects,
        settings=CampaignSettings(
            budget_s=total_s * (1.0 - _SERVE_SHARE - _SETUP_SHARE),
            limits=_SMALL_LIMITS if small else GridLimits(),
        ),
        dtype=dtype,
        validation=_validation(
            total_s * _SERVE_SHARE / len(_LOADS), subjects[0].llm, device, small=small
        ),
    )


def _validation(
    max_s: float, llm: LlmSpec, device: Device, *, small: bool
) -> ValidationPlan:
    if small:
        limits = EngineLimits(
            max_batch_tokens=256, max_num_seqs=8, max_context_tokens=128
        )
        return ValidationPlan(
            limits=limits, lengths="48x16", num_requests=30, max_s=max_s
        )
    context = min(_SLOT_TOKENS, llm.max_positions)
    (stage,) = stage_shapes(llm, Parallelism())
    room = _MEMORY_SHARE * device.free_bytes() - stage.weight_bytes
    slots = int(room / (kv_bytes_per_token(llm) * context))
    return ValidationPlan(
        limits=EngineLimits(
            max_num_seqs=min(_MAX_SLOTS, max(1, slots)), max_context_tokens=context
        ),
        lengths="chat",
        max_s=max_s,
    )
