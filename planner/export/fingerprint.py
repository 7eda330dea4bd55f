"""Which plan exported files belong to."""

import hashlib

from clusters.serde import dump_json
from planner.files import plan_to_mapping
from planner.plan import Plan


def plan_sha256(plan: Plan) -> str:
    """SHA-256 of the plan's JSON: what ``sha256sum`` says of the plan file."""
    text = dump_json(plan_to_mapping(plan))
    return hashlib.sha256(text.encode()).hexdigest()
