"""CampaignPlan: what one command on a GPU machine does with its minutes.

The most wanted comes first: one model from its layers to a validated prediction, then
the other models, then looks at SM shares and repeatability. A campaign that is cut
short has lost the least wanted.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from clusters.fields import InputError, check_fields, spec
from clusters.mapping import nearest
from models.flops import stage_shapes
from models.llm import LlmSpec
from models.memory import kv_bytes_per_token
from models.parallelism import Parallelism
from profiler.engine import EngineLimits
from profiler.environment import Device
from profiler.grid import GridLimits
from profiler.layers.linear import why_not_fp8
from profiler.layers.settings import LayerSettings
from profiler.serving import ServingPolicy
from profiler.subject import Subject, subjects_of
from profiler.suite import SMALL_LIMITS, SUITES, suite_subjects
from profiler.validation_plan import LOADS, ValidationPlan

_BUILD_SHARE = 0.2
"""Of the time for validation, what building and calibrating the engine takes."""
_AZURE = (
    Path(__file__).parents[1] / "examples" / "traces" / "azure_conversation_head.csv"
)
"""Lengths of the Azure conversation trace; a checkout has them, a package does not."""
_MAX_SLOTS = 128
_SLOT_TOKENS = 4096
_MEMORY_SHARE = 0.8
_POLICIES = (ServingPolicy.PREFILL_FIRST, ServingPolicy.CHUNKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageShares:
    """Shares of the whole time; the rest is for starting, compiling and the report."""

    main: float = spec("The first model's layers and ends.", unit="1", gt=0, lt=1)
    validate: float = spec("Building its engine, serving.", unit="1", gt=0, lt=1)
    suite: float = spec("The other models.", unit="1", gt=0, lt=1)
    sm_share: float = spec("Shares of the SMs.", unit="1", gt=0, lt=1)
    repeat: float = spec("Points of the first model again.", unit="1", gt=0, lt=1)

    def __post_init__(self) -> None:
        check_fields(self)


SHARES = StageShares(main=0.10, validate=0.25, suite=0.42, sm_share=0.06, repeat=0.04)


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignPlan:
    """Subjects, their grid and budget, and the validation."""

    main: tuple[Subject, ...] = spec("Layers and ends of the model that is served.")
    rest: tuple[Subject, ...] = spec("The other subjects, the most wanted first.")
    limits: GridLimits = spec("Reach of the grid.")
    max_refinements: int = spec(
        "Most rounds of refinement a part.", unit="rounds", ge=0, default=6
    )
    dtype: str = spec("Number format of the activations.")
    total_s: float = spec("Time for everything.", unit="s", gt=0)
    shares: StageShares = spec("What each stage gets of it.", default=SHARES)
    validation: ValidationPlan = spec("What is served.")

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def llm(self) -> LlmSpec:
        """The model that is served."""
        return self.main[0].llm

    @property
    def main_layers(self) -> tuple[Subject, ...]:
        """The subjects of that model which are layers."""
        return tuple(subject for subject in self.main if not subject.is_ends)


def plan_campaign(
    device: Device,
    *,
    suite: str = "full",
    model: str | None = None,
    dtype: str = "bf16",
    minutes: float = 8.0,
    small: bool = False,
) -> CampaignPlan:
    """Share the minutes among the stages.

    Raises
    ------
    InputError
        On an unknown suite or model.
    """
    total_s = minutes * 60.0
    subjects = campaign_subjects(device, suite=suite, model=model, dtype=dtype)
    first = subjects[0]
    main = tuple(s for s in subjects if (s.llm, s.tp) == (first.llm, first.tp))
    rest = tuple(s for s in subjects if s not in main)
    # A campaign of one model has all the time for it.
    shares = SHARES if rest else replace(SHARES, main=SHARES.main + SHARES.suite)
    num_runs = len(LOADS) * len(_POLICIES)
    serving_s = (1.0 - _BUILD_SHARE) * SHARES.validate * total_s
    return CampaignPlan(
        main=main,
        rest=rest,
        shares=shares,
        limits=SMALL_LIMITS if small else GridLimits(),
        max_refinements=1 if small else 6,
        dtype=dtype,
        total_s=total_s,
        validation=_validation(serving_s / num_runs, first.llm, device, small=small),
    )


def campaign_subjects(
    device: Device, *, suite: str, model: str | None, dtype: str
) -> tuple[Subject, ...]:
    """The subjects of a suite, or of one model instead.

    Raises
    ------
    InputError
        On an unknown suite or model.
    """
    if model is not None:
        return subjects_of(LlmSpec.load(model), (1,), dtype=dtype)
    if suite not in SUITES:
        raise InputError("--suite", suite, f"a suite ({nearest(suite, SUITES)})")
    torch_dtype = LayerSettings.torch_dtype(dtype)
    has_fp8 = why_not_fp8(device.torch_device, torch_dtype) is None
    return suite_subjects(SUITES[suite], dtype=dtype, has_fp8=has_fp8)


def _validation(
    max_s: float, llm: LlmSpec, device: Device, *, small: bool
) -> ValidationPlan:
    if small:
        limits = EngineLimits(
            max_batch_tokens=256,
            chunk_budget_tokens=64,
            max_num_seqs=8,
            max_context_tokens=128,
        )
        return ValidationPlan(
            limits=limits,
            lengths="48x16",
            policies=_POLICIES,
            num_requests=30,
            max_s=max_s,
        )
    context = min(_SLOT_TOKENS, llm.max_positions)
    (stage,) = stage_shapes(llm, Parallelism())
    room = _MEMORY_SHARE * device.free_bytes() - stage.weight_bytes
    slots = int(room / (kv_bytes_per_token(llm) * context))
    return ValidationPlan(
        limits=EngineLimits(
            max_num_seqs=min(_MAX_SLOTS, max(1, slots)), max_context_tokens=context
        ),
        lengths=str(_AZURE) if _AZURE.exists() else "chat",
        policies=_POLICIES,
        max_s=max_s,
    )
