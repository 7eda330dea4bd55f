"""All commands of `phaseplan profile`, put together."""

from planner.cli import (
    profile_campaign,
    profile_links,
    profile_measure,
    profile_validate,
)
from planner.cli.profile import app

__all__ = [
    "app",
    "profile_campaign",
    "profile_links",
    "profile_measure",
    "profile_validate",
]
