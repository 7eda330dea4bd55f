"""The hash in exported files is that of the plan file."""

import hashlib
from pathlib import Path

from planner.export.fingerprint import plan_sha256
from planner.files import read_plan, write_plan
from tests.planner.export.plans import one_node


def test_the_fingerprint_is_the_hash_of_the_plan_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan(one_node(), path)
    assert plan_sha256(one_node()) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert plan_sha256(read_plan(path)) == plan_sha256(one_node())
