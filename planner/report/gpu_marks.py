"""What each GPU of a plan does, as a picture shows it."""

from collections.abc import Mapping
from dataclasses import dataclass

from clusters.fields import spec
from planner.multiplexing.shared_plan import SharedPlan
from planner.plan import Plan
from planner.simulator.system import Phase

_LETTERS = {Phase.PREFILL: "P", Phase.DECODE: "D", Phase.AGGREGATED: "A"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMark:
    """One GPU in use."""

    pool: str = spec("What the legend calls it; GPUs of one pool look alike.")
    kind: str = spec("Sort of pool, which its hue stands for.")
    label: str = spec("A few letters on the GPU.")
    about: str = spec("What a reader sees who points at it.")


def marks_of_plan(plan: Plan) -> dict[int, GpuMark]:
    """Marks of the GPUs of a plan, by index in the cluster."""
    marks = {}
    for pool in plan.deployment.pools():
        for replica in pool.replicas:
            letter = _LETTERS[replica.phase]
            number = replica.name.rpartition("-")[2]
            for stage, gpus in enumerate(replica.stage_gpus):
                about = f"{replica.name}, {replica.shape.split}"
                if len(replica.stage_gpus) > 1:
                    about += f", stage {stage}"
                for gpu in gpus:
                    marks[gpu] = GpuMark(
                        pool=f"{pool.shape} x {len(pool.replicas)}",
                        kind=str(replica.phase),
                        label=f"{letter}{number}",
                        about=about,
                    )
    return marks


def marks_of_shared_plan(plan: SharedPlan) -> dict[int, GpuMark]:
    """Marks of the GPUs of units, by index in the cluster."""
    marks = {}
    for index, each in enumerate(plan.placed.units):
        names = [member.service for member in each.unit.members]
        kind, pool = "shared" if each.unit.is_shared else "dedicated", " + ".join(names)
        if each.unit.phase is not Phase.AGGREGATED:
            kind, pool = str(each.unit.phase), f"{pool} ({each.unit.phase})"
        for gpu in each.gpu_indices:
            marks[gpu] = GpuMark(
                pool=pool,
                kind=kind,
                label=f"U{index}",
                about=f"unit {index}: {each.unit.describe()}",
            )
    return marks


def pools_of(marks: Mapping[int, GpuMark]) -> dict[str, tuple[str, int]]:
    """Kind and number of GPUs of each pool, in the order of its first GPU."""
    found: dict[str, tuple[str, int]] = {}
    for gpu in sorted(marks):
        mark = marks[gpu]
        kind, num = found.get(mark.pool, (mark.kind, 0))
        found[mark.pool] = (kind, num + 1)
    return found
