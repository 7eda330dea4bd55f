"""Columns: replica configurations on host classes, priced by the evaluator.

A column is one way to run a replica: phase, GPU type, parallelism, on hosts of one
class. Its rate is either what the simulator finds for one of a few replicas that share
the arrivals (`promises`: what plans are made of) or what no schedule exceeds
(`ceilings`: what bounds are made of).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from clusters.fields import check_fields, spec
from models.latency.library import LatencyUnavailableError
from planner.capacity import replica_capacity_rps
from planner.deployment import Deployment, ReplicaShape
from planner.search.contract import Ledger, SearchContext
from planner.search.phases import rate_alone
from planner.search.provisioning.hosts import HostClass
from planner.search.shapes import parallelisms, why_not
from planner.serving import Planner
from planner.simulator.system import Phase

_SAMPLE_REQUESTS = 20_000


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
    most: int = spec("Replicas that fit the class.", unit="replicas", ge=1)
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
            most = hosts.free().most_replicas(shape)
            found.append(
                Configuration(
                    host_class=index,
                    alone=alone,
                    most=most,
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

    `pool_size` replicas share the arrivals, or as many as fit the class. Classes that
    differ in nothing but their leaf switch have the same rates.
    """
    firsts: dict[tuple[ReplicaShape, object, int], Configuration] = {}
    for each in found:
        firsts.setdefault(_alike(each, pool_size), each)
    rated = rate_alone(
        context,
        tuple(each.alone for each in firsts.values()),
        phase,
        ledger,
        pool_sizes=[min(pool_size, each.most) for each in firsts.values()],
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
        if (rate := rates.get(_alike(each, pool_size))) is not None
    ]


def _alike(each: Configuration, pool_size: int) -> tuple[ReplicaShape, object, int]:
    """What configurations of one rate have in common."""
    (replica,) = each.alone.replicas
    return replica.shape, each.hosts_alike, min(pool_size, each.most)


def ceilings(planner: Planner, found: Sequence[Configuration]) -> list[Column]:
    """Columns with a rate that no schedule of one replica exceeds for long."""
    service = planner.problem.service
    sample = service.workload.draw(_SAMPLE_REQUESTS, seed=0, rate_rps=1.0)
    columns = []
    for each in found:
        replica = planner.system(each.alone).replicas[0]
        columns.append(
            Column(
                host_class=each.host_class,
                shape=each.alone.replicas[0].shape,
                rate_rps=replica_capacity_rps(replica, sample, service.slo),
            )
        )
    return columns
