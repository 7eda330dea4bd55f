"""The timeline of a simulation as a file, for `phaseplan simulate --timeline`."""

from pathlib import Path
from typing import TYPE_CHECKING

from clusters.fields import InputError
from planner.cli.output import check_writable, say

if TYPE_CHECKING:
    from planner.replay import Replay

MAX_SPANS = 50_000
"""Steps, or runs of steps, in a timeline: about 10 MB."""


def check_timeline(path: Path | None) -> Path | None:
    """Refuse a path that cannot be written, before any work is done."""
    return check_writable(path, option="--timeline")


def write_timeline(path: Path, whole: "Replay", *, quiet: bool) -> None:
    """Write the Chrome trace of a replay, whole or not at all.

    Raises
    ------
    InputError
        When the deployment is so large that only its cells were simulated.
    """
    from clusters.serde import write_text_atomic
    from planner.simulator.chrome_trace import chrome_trace

    recorded = whole.result.timeline
    if recorded is None:
        found = f"{len(whole.deployment.replicas)} replicas"
        raise InputError("--timeline", found, "a plan that is simulated in one piece")
    names = [replica.name for replica in whole.deployment.replicas]
    write_text_atomic(path, chrome_trace(whole.result, names))
    rest = f"; {recorded.num_left_out:,} later ones left out"
    text = f"{recorded.num_spans:,} steps or runs of steps"
    text += rest if recorded.num_left_out else ""
    say(f"{path}: {text}. Open it in https://ui.perfetto.dev", quiet=quiet)
