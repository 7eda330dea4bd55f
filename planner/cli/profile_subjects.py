"""What `phaseplan profile run` and `campaign` measure, and their dry runs."""

from typing import TYPE_CHECKING

from clusters.fields import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from profiler.campaign import CampaignSettings
    from profiler.environment import Device
    from profiler.grid import GridLimits
    from profiler.subject import Subject


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """Numbers of ``1,2,4``, as given to `option`.

    Raises
    ------
    InputError
        When one is no whole number >= 1.
    """
    found = tuple(
        int(part) if part.strip().isdigit() else 0 for part in text.split(",")
    )
    if not found or min(found) < 1:
        raise InputError(option, text, "whole numbers >= 1, e.g. 1,2,4")
    return found


def wanted_subjects(
    model: str | None,
    suite: str | None,
    *,
    tp: str | None,
    dtype: str,
    device: "Device | None",
) -> tuple["Subject", ...]:
    """The layers and ends of a model at some shards, or those of a suite.

    Without a device, a suite holds what the best one could measure.

    Raises
    ------
    InputError
        When neither or both are named, or one is unknown.
    """
    from clusters.mapping import nearest
    from models.llm import LlmSpec
    from profiler.subject import subjects_of
    from profiler.suite import SUITES, suite_subjects

    if (model is None) == (suite is None):
        raise InputError("MODEL", model, "a model, or --suite (and not both)")
    if model is not None:
        degrees = whole_numbers(tp or "1", "--tp")
        return subjects_of(LlmSpec.load(model), degrees, dtype=dtype)
    assert suite is not None
    if tp is not None:
        raise InputError("--tp", tp, "no shards beside --suite, which has its own")
    if suite not in SUITES:
        raise InputError("--suite", suite, f"a suite ({nearest(suite, SUITES)})")
    if device is None:
        return suite_subjects(SUITES[suite], dtype=dtype, has_fp8=True)
    from profiler.campaign_plan import campaign_subjects

    return campaign_subjects(device, suite=suite, model=None, dtype=dtype)


def found_gpu(device: str, gpu: str | None) -> str | None:
    """The GPU type to estimate for: as named, as found here, or None."""
    from planner.cli.profile import open_device

    if gpu is not None:
        return gpu
    try:
        chosen = open_device(device)
    except InputError:  # a dry run needs no device
        return None
    from profiler.environment import environment_of

    return environment_of(chosen).gpu if chosen.is_cuda else None


def list_points(
    subjects: "Sequence[Subject]", settings: "CampaignSettings", gpu: str | None
) -> None:
    """Print every point with its bytes and time, and the totals."""
    from planner.cli.output import stdout_console
    from planner.cli.profile_tables import points_table
    from profiler.estimate import estimates

    rows = estimates(subjects, settings.limits, sections=settings.sections, gpu=gpu)
    stdout_console().print(points_table(rows, gpu=gpu, budget_s=settings.budget_s))


def list_subjects(
    subjects: "Sequence[Subject]",
    limits: "GridLimits",
    *,
    gpu: str | None,
    budget_s: float,
) -> None:
    """Print every subject with its number of points, bytes and time, and the totals."""
    from planner.cli.output import stdout_console
    from planner.cli.profile_tables import subjects_table
    from profiler.estimate import estimates

    rows = estimates(subjects, limits, gpu=gpu)
    stdout_console().print(subjects_table(rows, gpu=gpu, budget_s=budget_s))
