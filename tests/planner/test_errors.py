"""The error tree says what it holds, in one line an error."""

import planner.errors
from planner.errors import PlannerError, UnknownMethodError, UnsupportedProblemError


def test_unknown_method_names_the_nearest_one() -> None:
    error = UnknownMethodError("distserv", ["aggregated", "distserve"])
    assert str(error) == "no search method 'distserv' (nearest is 'distserve')"
    assert (error.method, error.known) == ("distserv", ("aggregated", "distserve"))


def test_unsupported_problem_gives_the_reason() -> None:
    error = UnsupportedProblemError("exhaustive", "32 GPUs, at most 8")
    assert str(error) == (
        "method 'exhaustive' does not support this problem: 32 GPUs, at most 8"
    )


def test_every_error_is_in_the_tree_of_the_docstring() -> None:
    drawn = planner.errors.__doc__ or ""
    names = ["PlannerError", *(e.__name__ for e in PlannerError.__subclasses__())]
    assert [name for name in names if name not in drawn] == []


def test_misuse_is_told_from_bad_input() -> None:
    assert not issubclass(PlannerError, ValueError)
