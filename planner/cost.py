"""The one cost function: $/h of the GPUs a plan uses."""

from clusters.cluster import Cluster
from planner.deployment import Deployment


def usd_per_hour(cluster: Cluster, deployment: Deployment) -> float | None:
    """Price of the GPUs of a deployment; None when a price is not known.

    A node that is used in part costs in proportion to its GPUs.
    """
    return cluster.usd_per_hour(deployment.gpu_indices)
