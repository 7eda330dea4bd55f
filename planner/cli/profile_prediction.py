"""Serving and predicting in a campaign: the engine's traces, and the simulator's."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.latency.profile import Profile
    from profiler.campaign_plan import CampaignPlan
    from profiler.environment import Device


def serve_campaign(
    device: "Device",
    plan: "CampaignPlan",
    profile: "Profile",
    path: Path,
    tell: Callable[[str], None],
    *,
    is_rough: bool,
) -> None:
    """Serve the first model at every load and policy, and write its traces to `path`.

    `is_rough` sets the loads by a capacity that is predicted without the simulator.
    """
    from planner.cli.profile_served import write_served
    from planner.cli.profile_validate import build_engine, serve_levels

    engine, why_eager = build_engine(plan.llm, device, plan.dtype, plan.validation)
    tell(f"engine: {engine.backend}")
    file = serve_levels(
        engine, profile, device, plan.validation, tell, why_eager, is_rough=is_rough
    )
    write_served(path, file)


def predict_campaign(
    plan: "CampaignPlan", profile: "Profile", served: Path, out: Path
) -> None:
    """Simulate the traces of `served`, and write ``validation.json`` into `out`."""
    from clusters.mapping import to_mapping
    from clusters.serde import dump_json, write_text_atomic
    from planner.cli.profile_served import engine_steps, read_served
    from planner.cli.profile_validate import predict_levels

    file = read_served(served)
    levels = predict_levels(file, profile, plan.llm, plan.validation)
    found = {
        "engine": file.backend,
        "no_graphs": file.no_graphs,
        "calibration": to_mapping(file.calibration),
        "levels": to_mapping(levels),
        "steps": engine_steps(file, profile, plan.llm),
    }
    write_text_atomic(out / "validation.json", dump_json(found))
