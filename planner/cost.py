"""The one cost function: $/h and watts of the GPUs a plan uses."""

from clusters.cluster import Cluster
from planner.deployment import Deployment


def usd_per_hour(cluster: Cluster, deployment: Deployment) -> float | None:
    """Price of the GPUs of a deployment; None when a price is not known.

    A node that is used in part costs in proportion to its GPUs.
    """
    return cluster.usd_per_hour(deployment.gpu_indices)


def power_w(cluster: Cluster, deployment: Deployment) -> float | None:
    """Board power limits of the GPUs of a deployment; None when one is not known.

    What the racks must be able to feed and cool; hosts and switches are left out. What
    is drawn on average is less (`planner.energy`).
    """
    return cluster.power_w(deployment.gpu_indices)
