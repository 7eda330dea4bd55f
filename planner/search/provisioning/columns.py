"""Columns: replica configurations on host classes, priced by the evaluator.

A column is one way to run a replica: phase, GPU type, parallelism, on hosts of one
class. Its rate is what a short simulation finds for one of a few replicas that share
the arrivals; `planner.search.provisioning.pricing` simulates longer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from clusters.fields import check_fields, spec
from models.latency.library import LatencyUnavailableError
from planner.deployment import Deployment, ReplicaShape
from planner.search.contract import Ledger, SearchContext
from planner.search.phases import rate_alone
from planner.search.provisioning.hosts import HostClass
from planner.search.shapes import parallelisms, why_not
from planner.serving import Planner
from planner.simulator.system import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A replica configuration on a host class."""

    host_class: int = spec("Index of the class.", unit="index", ge=0)
    shape: ReplicaShape = spec("Phase, GPU type and parallelism.")
    rate_rps: float = spec("Rate of one replica.", unit="requests/s", ge=0)
    light_load_frac: float = spec(
        "Good requests at a very low rate, where the rate is 0.",
        unit="1",
        default=1.0,
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def num_gpus(self) -> int:
        """GPUs of one replica."""
        return self.shape.parallelism.num_gpus

    @property
    def width(self) -> int:
        """GPUs of each group that stays on one host."""
        return self.shape.parallelism.gpus_per_stage

    @property
    def num_groups(self) -> int:
        """Groups of one replica."""
        return self.shape.parallelism.pp


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A column before it is priced: one replica in its place."""

    host_class: int = spec("Index of the class.", unit="index", ge=0)
    alone: Deployment = spec("One replica of it, on GPUs of the class.")
    hosts_alike: tuple[object, ...] = spec("What classes of like hosts share.")


def configurations(
    planner: Planner, classes: Sequence[HostClass], phase: Phase, ledger: Ledger
) -> list[Configuration]:
    """Every replica that runs on some class; the others are counted with the reason."""
    found = []
    for index, hosts in enumerate(classes):
        total = hosts.num_gpus * hosts.num_hosts
        for parallelism in parallelisms(planner.problem, hosts.num_gpus, total, phase):
            shape = ReplicaShape(
                phase=phase, gpu_type=hosts.gpu_type, parallelism=parallelism
            )
            reason = why_not(planner, shape)
            stages = None if reason else hosts.free().take_replica(shape)
            if stages is None:
                ledger.reject(reason or "does not fit the nodes")
                continue
            alone = planner.deploy_if_joined([shape], [stages])
            if alone is None:
                ledger.reject("no way joins its GPUs")
                continue
            try:
                planner.system(alone)
            except LatencyUnavailableError as error:
                ledger.reject(f"no latency: {error}")
                continue
            found.append(
                Configuration(
                    host_class=index,
                    alone=alone,
                    hosts_alike=(hosts.node_type, hosts.island_sizes, hosts.leaf == ""),
                )
            )
    return found


def promises(
    context: SearchContext,
    found: Sequence[Configuration],
    phase: Phase,
    ledger: Ledger,
    *,
    pool_size: int = 1,
) -> list[Column]:
    """Columns with the goodput of one replica for its phase alone, in a pool.

    `pool_size` replicas share the arrivals, whether or not as many fit the class: other
    replicas of the phase are in the pool too. Classes that differ in nothing but their
    leaf switch have the same rates.
    """
    firsts: dict[tuple[ReplicaShape, object], Configuration] = {}
    for each in found:
        firsts.setdefault(alike(each), each)
    rated = rate_alone(
        context,
        tuple(each.alone for each in firsts.values()),
        phase,
        ledger,
        pool_sizes=[pool_size] * len(firsts),
    )
    rates = dict(zip(firsts, rated, strict=False))  # a stop leaves some out
    return [
        Column(
            host_class=each.host_class,
            shape=rate.shape,
            rate_rps=rate.rate_rps,
            light_load_frac=rate.light_load_frac,
        )
        for each in found
        if (rate := rates.get(alike(each))) is not None
    ]


def alike(each: Configuration) -> tuple[ReplicaShape, object]:
    """What configurations of one rate have in common: all but the leaf switch."""
    (replica,) = each.alone.replicas
    return replica.shape, each.hosts_alike
