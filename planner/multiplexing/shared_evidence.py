"""Where the figures of a plan for several services come from, and what to mind."""

from collections import Counter
from collections.abc import Sequence

from planner.evidence import LARGE_ERROR_FRAC
from planner.multiplexing.llm_costs import CostBook
from planner.multiplexing.meshes import MeshKind
from planner.multiplexing.placed import PlacedUnits
from planner.plan import ShapeEvidence

SHARED_TABLE_GPU = "a100_sxm"
"""GPU type that the model of SM shares was fitted on (`models.latency.contention`)."""
LARGE_SHARE_ERROR_FRAC = 0.1
"""Median error of fitted SM shares from which a plan says so."""


def evidence_of_units(book: CostBook, placed: PlacedUnits) -> tuple[ShapeEvidence, ...]:
    """Latencies and memory of each service on each kind of mesh it has."""
    number = {demand.name: index for index, demand in enumerate(book.demands)}
    on: Counter[tuple[str, MeshKind]] = Counter()
    for each in placed.units:
        for member in each.unit.members:
            on[member.service, each.unit.mesh] += 1
    found = []
    for (service, mesh), num in on.items():
        cost = book.costs(number[service], mesh)
        assert cost is not None, "units of a placement that was checked"
        free_bytes = cost.budget_bytes - cost.fixed_bytes - cost.process_bytes
        found.append(
            ShapeEvidence(
                shape=f"{service} on {mesh}",
                num_replicas=num,
                latency_source=cost.latency.source,
                latency_provenance=str(cost.latency.provenance),
                latency_reason=cost.latency.reason,
                expected_error_frac=cost.latency.expected_error_frac,
                weights_bytes=cost.weights_bytes,
                kv_capacity_tokens=int(free_bytes / cost.kv_bytes_per_token),
            )
        )
    return tuple(found)


def warnings_of_units(
    book: CostBook, placed: PlacedUnits, evidence: Sequence[ShapeEvidence]
) -> tuple[str, ...]:
    """What a reader of the plan should be careful about."""
    found = [
        f"{each.shape}: latencies are {each.latency_provenance} with an expected error "
        f"of {each.expected_error_frac:.0%}; measure before you buy"
        for each in evidence
        if (each.expected_error_frac or 0.0) > LARGE_ERROR_FRAC
    ]
    sharing = {
        each.unit.mesh.gpu_type: book.sharing_on(each.unit.mesh.gpu_type)
        for each in placed.units
        if each.unit.num_processes > 1
    }
    published = [gpu for gpu, law in sorted(sharing.items()) if law.date]
    if published:
        law = sharing[published[0]]
        text = (
            f"no SM shares measured on {', '.join(published)}: steps on a share follow "
            f"a model fitted to {law.source} ({law.date}) on {SHARED_TABLE_GPU}"
        )
        others = [gpu for gpu in published if gpu != SHARED_TABLE_GPU]
        if others:
            text += f", which stands in for {', '.join(others)}"
        found.append(text)
    for gpu, law in sorted(sharing.items()):
        error = max(law.decode_error_frac or 0.0, law.prefill_error_frac or 0.0)
        if not law.date and error > LARGE_SHARE_ERROR_FRAC:
            found.append(
                f"{gpu}: the model of SM shares is {error:.0%} off the {law.source}"
            )
    return tuple(found)
