"""Errors of using the planner.

Tree::

    Exception
    ├── ValueError
    │   ├── InputError               (clusters.fields) a value that cannot be used
    │   └── LatencyUnavailableError  (models.latency.request) no latency for a replica
    └── PlannerError                 the planner cannot do what it was asked
        ├── UnknownMethodError       no search method of that name
        └── UnsupportedProblemError  the method does not cover this problem

That no plan meets the SLO is no error but a status of the result, with the reasons.
"""

from collections.abc import Iterable

from clusters.mapping import nearest


class PlannerError(Exception):
    """The planner cannot do what it was asked; the message is one line."""


class UnknownMethodError(PlannerError):
    """There is no search method of that name.

    Parameters
    ----------
    method
        The name that was asked for.
    known
        Names of the methods there are.
    """

    def __init__(self, method: str, known: Iterable[str]) -> None:
        self.method = method
        self.known = tuple(known)
        hint = nearest(method, self.known)
        super().__init__(f"no search method {method!r} ({hint})")


class UnsupportedProblemError(PlannerError):
    """The search method does not cover this problem.

    Parameters
    ----------
    method
        Name of the search method.
    reason
        What its `supports` answered.
    """

    def __init__(self, method: str, reason: str) -> None:
        self.method = method
        self.reason = reason
        super().__init__(f"method {method!r} does not support this problem: {reason}")
