"""Mixed-integer programs: PuLP writes them, HiGHS solves them, CBC where it is missing.

PuLP knows three answers too many: it calls a program that ran out of time optimal, and
gives no bound. Here an answer has one of our statuses, a bound that holds, and a gap.

* OPTIMAL: the solver closed the gap that was asked for;
* FEASIBLE: it was stopped with a solution, which is `gap_frac` at most from the best;
* INFEASIBLE: proven that there is none;
* NOT_FOUND: it was stopped without one.
"""

import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pulp

from clusters.fields import InputError, check_fields, spec
from planner.plan import Status

INTEGER_TOLERANCE = 1e-6
"""Distance from a whole number at which solvers call a value whole."""


class Solver(StrEnum):
    """Solvers that can be asked for."""

    HIGHS = "highs"
    CBC = "cbc"


_PULP_NAMES = {
    Solver.HIGHS: ("HiGHS",),
    # An installed CBC, then the one that comes with PuLP up to version 3.
    Solver.CBC: ("COIN_CMD", "PULP_CBC_CMD"),
}

_FAILURES = {"kSolveError", "kPresolveError", "kPostsolveError", "kModelError"}
"""Ends of HiGHS that say nothing of the program: the bound it gives is then 0."""

_STRICT = {"mip_feasibility_tolerance": 1e-8, "primal_feasibility_tolerance": 1e-8}
"""A hundredth and a tenth of HiGHS's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MilpOutcome:
    """What became of a program; its variables hold the solution."""

    status: Status = spec("How good the solution is known to be.")
    value: float | None = spec("Objective of the solution.", unit="of the objective")
    bound: float | None = spec(
        "No solution is better; None: none is known.", unit="of the objective"
    )
    solver: Solver = spec("Who solved it.")
    runtime_s: float = spec("Wall time.", unit="s", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def gap_frac(self) -> float | None:
        """Distance of the value to the bound, relative to the larger of the two."""
        return relative_gap(self.value, self.bound)


def relative_gap(value: float | None, bound: float | None) -> float | None:
    """Distance of a value to its bound, relative to the larger; None without one."""
    if value is None or bound is None:
        return None
    scale = max(abs(value), abs(bound))
    return abs(bound - value) / scale if scale > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """Optimum of a program without its integrality, and what each limit is worth."""

    value: float = spec("Its objective.", unit="of the objective")
    prices: Mapping[str, float] = spec(
        "By constraint: change of the objective for each unit of its right-hand side.",
        unit="of the objective",
    )


def solve_milp(
    program: pulp.LpProblem,
    *,
    time_limit_s: float | None = None,
    gap_frac: float = 0.0,
    solver: Solver | None = None,
) -> MilpOutcome:
    """Solve a program; the solution is in its variables.

    Parameters
    ----------
    program
        Variables, constraints and objective.
    time_limit_s
        When to stop; None: when it is solved.
    gap_frac
        Relative gap that counts as optimal.
    solver
        Which solver; None: HiGHS, or CBC without it.

    Raises
    ------
    InputError
        When the solver asked for is not installed, or the program is unbounded.
    """
    chosen = solver or _default_solver()
    started = time.monotonic()
    code = _run(program, chosen, time_limit_s, gap_frac)
    runtime_s = time.monotonic() - started
    if code == pulp.LpStatusUnbounded or _is_unbounded(program, chosen):
        raise InputError("program", program.name, "a program with a bounded objective")
    if code == pulp.LpStatusInfeasible:
        return MilpOutcome(
            status=Status.INFEASIBLE,
            value=None,
            bound=None,
            solver=chosen,
            runtime_s=runtime_s,
        )
    value = _value(program)
    is_proven = value is not None and not _is_stopped(program, chosen)
    bound = _bound(program, chosen, value, gap_frac, is_proven=is_proven)
    if value is None:
        status = Status.NOT_FOUND
    else:
        status = Status.OPTIMAL if is_proven else Status.FEASIBLE
    return MilpOutcome(
        status=status, value=value, bound=bound, solver=chosen, runtime_s=runtime_s
    )


def solve_relaxation(
    program: pulp.LpProblem, *, solver: Solver | None = None
) -> Relaxation:
    """Solve a program as if its variables need not be whole.

    Raises
    ------
    InputError
        When it has no optimum.
    """
    chosen = solver or _default_solver()
    code = _run(program, chosen, None, 0.0, mip=False)
    if code != pulp.LpStatusOptimal:
        raise InputError(
            "program", pulp.LpStatus[code], "a relaxation with an optimal solution"
        )
    # HiGHS is handed a minimisation in any case, CBC the program as it stands.
    is_flipped = chosen is Solver.HIGHS and program.sense == pulp.LpMaximize
    sign = -1.0 if is_flipped else 1.0
    return Relaxation(
        value=float(pulp.value(program.objective)),
        prices={
            constraint.name: sign * float(constraint.pi or 0.0)
            for constraint in program.constraints()
        },
    )


def whole_value(variable: pulp.LpVariable) -> int:
    """Value of an integer variable in the solution, without the solver's tolerance."""
    return round(variable.value() or 0.0)


def is_installed(solver: Solver) -> bool:
    """Whether a solver can be used."""
    return _pulp_solver(solver) is not None


def _default_solver() -> Solver:
    for solver in Solver:
        if is_installed(solver):
            return solver
    raise InputError("solver", None, "highspy or CBC (pip install highspy)")


def _run(
    program: pulp.LpProblem,
    solver: Solver,
    time_limit_s: float | None,
    gap_frac: float,
    *,
    mip: bool = True,
) -> int:
    """Solve, once more with tighter tolerances where HiGHS gives up; PuLP's status.

    It calls its own optimum an error where that breaks a row by just its tolerance.
    """
    code = program.solve(_configured(solver, time_limit_s, gap_frac, mip=mip))
    if _has_failed(program, solver):
        strict = _configured(solver, time_limit_s, gap_frac, mip=mip, **_STRICT)
        code = program.solve(strict)
    return int(code)


def _has_failed(program: pulp.LpProblem, solver: Solver) -> bool:
    """Whether HiGHS ended in an error of its own, so that nothing it says counts."""
    if solver is not Solver.HIGHS:
        return False
    return program.solverModel.getModelStatus().name in _FAILURES


def _configured(
    solver: Solver,
    time_limit_s: float | None,
    gap_frac: float,
    *,
    mip: bool = True,
    **options: Any,
) -> pulp.LpSolver:
    made = _pulp_solver(
        solver, mip=mip, msg=False, gapRel=gap_frac, timeLimit=time_limit_s, **options
    )
    if made is None:
        raise InputError("solver", str(solver), "a solver that is installed")
    return made


def _pulp_solver(solver: Solver, **options: Any) -> pulp.LpSolver | None:
    """PuLP's interface to a solver, None when it is not installed."""
    for name in _PULP_NAMES[solver]:
        if name not in pulp.listSolvers():
            continue
        with warnings.catch_warnings():
            # The CBC that comes with PuLP 3 says that PuLP 4 will have none.
            warnings.simplefilter("ignore", DeprecationWarning)
            made = pulp.getSolver(name, **options)
            if made.available():
                return made
    return None


def _value(program: pulp.LpProblem) -> float | None:
    """Objective of the solution; None when the variables hold none."""
    if program.sol_status not in (
        pulp.LpSolutionOptimal,
        pulp.LpSolutionIntegerFeasible,
    ):
        return None
    value = pulp.value(program.objective)
    if value is None or not program.valid(INTEGER_TOLERANCE):
        return None
    return float(value)


def _is_unbounded(program: pulp.LpProblem, solver: Solver) -> bool:
    """Whether HiGHS would say so without its presolve, which may leave it open."""
    if solver is not Solver.HIGHS:
        return False
    highs = program.solverModel
    if highs.getModelStatus().name == "kUnboundedOrInfeasible":
        highs.setOptionValue("presolve", "off")
        highs.run()
    return bool(highs.getModelStatus().name == "kUnbounded")


def _is_stopped(program: pulp.LpProblem, solver: Solver) -> bool:
    """Whether a limit ended the search before the gap was closed."""
    if solver is Solver.CBC:
        return bool(program.sol_status != pulp.LpSolutionOptimal)
    status = program.solverModel.getModelStatus()
    return bool(status.name != "kOptimal")


def _bound(
    program: pulp.LpProblem,
    solver: Solver,
    value: float | None,
    gap_frac: float,
    *,
    is_proven: bool,
) -> float | None:
    """What no solution exceeds, in the sense of the objective."""
    maximises = program.sense == pulp.LpMaximize
    if _has_failed(program, solver):
        return None
    if solver is Solver.HIGHS and program.isMIP():
        # HiGHS is handed a minimisation without the objective's constant.
        bound = float(program.solverModel.getInfo().mip_dual_bound)
        if not math.isfinite(bound):
            return None
        constant = float(program.objective.constant)
        return (-bound if maximises else bound) + constant
    if value is None or not is_proven:
        return None  # CBC does not hand out its bound
    slack = abs(value) * gap_frac
    return value + slack if maximises else value - slack
