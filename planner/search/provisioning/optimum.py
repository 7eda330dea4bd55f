"""The optimum of the configuration programme for each goal, and its bound.

A second goal is solved for with the first held at its optimum, but for the share that
may be given up (lexicographic).

No allocation of whole replicas, at these rates, exceeds the bound of branch and bound,
nor that of the linear relaxation, which is further away and has prices. The rate a GPU
is a ratio of two linear forms, maximised by Dinkelbach's method ("On Nonlinear
Fractional Programming", Management Science 13(7), 1967): solve max R - lambda * GPUs,
set lambda to the ratio reached, until nothing improves.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pulp

from clusters.fields import InputError, spec
from planner.objective import Goal
from planner.search.milp import solve_milp, solve_relaxation, whole_value
from planner.search.provisioning.columns import Column
from planner.search.provisioning.program import NICS, Program, ProgramData
from planner.search.provisioning.splits import Split

_WHOLE = 1e-5
"""Distance from a whole number that is the solver's and not the answer's."""

_RATIO_ROUNDS = 12
_RATIO_TOLERANCE = 1e-9
_KEPT_FRAC = 1.0 - 1e-6
"""Share of the first goal that the second (fewer GPUs) may not give up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What an allocation is to be best at."""

    goal: Goal = spec("The goal.")
    then: Goal | None = spec(
        "What decides among allocations as good; None: fewer GPUs, for the highest "
        "rate.",
        default=None,
    )
    give_up_frac: float = spec(
        "Share of the goal given up for it at most.", unit="1", ge=0, default=0.0
    )
    rate_rps: float | None = spec(
        "Rate to serve, for the goals that need one.", unit="requests/s", default=None
    )
    time_limit_s: float | None = spec("For each solve.", unit="s", default=None)
    gap_frac: float = spec(
        "Distance from the optimum that is good enough.", unit="1", ge=0, default=0.0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Numbers of replicas of each column."""

    counts: tuple[tuple[Column, int], ...] = spec("Columns in use.")
    rate_rps: float = spec("Rate they promise.", unit="requests/s", ge=0)
    value: float = spec("Value of the goal.", unit="of the goal")
    bound: float = spec(
        "No whole replicas of these rates are better.", unit="of the goal"
    )
    packings: Mapping[int, Sequence[tuple[Mapping[int, int], int]]] = spec(
        "By host class: groups of each width on a host, and on how many hosts."
    )
    splits: Mapping[int, Sequence[tuple[Split, int]]] = spec(
        "By host class with slow NICs: how many hosts have each split.",
        default_factory=dict,
    )

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns in use."""
        return tuple(column for column, _ in self.counts)

    @property
    def num_gpus(self) -> int:
        """GPUs in use."""
        return sum(column.num_gpus * count for column, count in self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The optimum of the relaxation, and what each limit is worth there."""

    value: float = spec("Value of the goal.", unit="of the goal")
    prices: Mapping[str, float] = spec(
        "By constraint: change of the objective for each unit of its limit."
    )
    used: tuple[Column, ...] = spec("Columns that it uses.", default=())


def allocate(
    data: ProgramData,
    target: Target,
    *,
    is_wanted: Callable[[Allocation], bool] = lambda _: True,
) -> Allocation | None:
    """The best allocation of whole replicas for both goals; None if none is.

    `is_wanted` is asked about the best for the first goal, and where that is of no use
    it is the answer: the second goal takes as long again.
    """
    program = Program(data)
    bounds: list[float | None] = []

    def solve() -> bool:
        outcome = solve_milp(
            program.model, time_limit_s=target.time_limit_s, gap_frac=target.gap_frac
        )
        bounds.append(outcome.bound)
        return outcome.value is not None

    if not _optimise(program, target, solve):
        return None
    value = _value_of(program, target.goal)
    if not value:
        return None
    bound = _whole_bound(target.goal, bounds[-1], value)
    if bound is None:  # a solver that was stopped, and tells none
        relaxed = relaxed_bound(data, target)
        if relaxed is None:
            return None
        bound = relaxed.value
    best = _allocation_of(program, target, bound)
    if best is None or not is_wanted(best):
        return best
    then = target.then
    if then is None and target.goal is Goal.MAX_GOODPUT:
        then = Goal.MIN_GPUS
    if then is not None:
        _hold(program, target, value)
        form = _form(program, then)
        if target.goal is Goal.MAX_GOODPUT and then is Goal.MIN_GPUS:
            # The rate decides among equals: it is worth less than a GPU.
            form += program.rate_rps / (2.0 * value)
        if form is not None:
            program.model.setObjective(form)
            # Seldom HiGHS's presolve takes a goal held so tightly for out of reach.
            return _allocation_of(program, target, bound) if solve() else best
    return best


def dealt(
    data: ProgramData,
    target: Target,
    totals: Sequence[tuple[Sequence[int], int]],
    answer: Allocation,
) -> Allocation | None:
    """Numbers of replicas with given totals that reach what an answer does.

    Parameters
    ----------
    data, target
        The programme.
    totals
        Indices of columns that together have a number of replicas; others have none.
    answer
        What has been found for a relaxation of the programme.

    Returns
    -------
    Allocation or None
        None where no numbers reach the rate of the answer.
    """
    columns = tuple(data.columns[index] for alike, _ in totals for index in alike)
    program = Program(replace(data, columns=columns))
    counts = iter(program.counts)
    for alike, total in totals:
        program.model += pulp.lpSum([next(counts) for _ in alike]) == total
    least_rps = max(answer.rate_rps * _KEPT_FRAC, target.rate_rps or 0.0)
    program.model += program.rate_rps >= least_rps
    program.model.setObjective(+program.rate_rps)
    outcome = solve_milp(program.model, time_limit_s=target.time_limit_s, gap_frac=1.0)
    if outcome.value is None:
        return None
    return _allocation_of(program, target, answer.bound)


def _hold(program: Program, target: Target, value: float) -> None:
    """Let no more of the first goal be given up: its form >= its value * the share."""
    kept = _KEPT_FRAC * (1.0 - target.give_up_frac)
    if target.goal is Goal.MAX_GOODPUT_PER_GPU:
        program.model += program.rate_rps >= kept * value * program.gpus
        return
    form = _form(program, target.goal)
    assert form is not None, "it has a value"
    program.model += form >= (kept * value if target.goal.is_upper else -value / kept)


def _whole_bound(goal: Goal, bound: float | None, value: float | None) -> float | None:
    """The solver's bound on the objective as one on the goal; None where it has none.

    At the last of Dinkelbach's iterations max R - ratio * GPUs <= bound, and GPUs are
    at least one: no ratio exceeds the one reached by more than the bound.
    """
    if bound is None:
        return None
    if goal is Goal.MAX_GOODPUT:
        return bound
    if goal is Goal.MAX_GOODPUT_PER_GPU:
        return (value or 0.0) + max(0.0, bound)
    # GPUs come whole.
    return float(math.ceil(-bound - _WHOLE)) if goal is Goal.MIN_GPUS else -bound


def _allocation_of(program: Program, target: Target, bound: float) -> Allocation | None:
    used = tuple(
        (column, whole_value(count))
        for column, count in zip(program.data.columns, program.counts, strict=True)
        if whole_value(count) > 0
    )
    value = _value_of(program, target.goal)
    if not used or not value:
        return None
    return Allocation(
        counts=used,
        rate_rps=float(pulp.value(program.rate_rps)),
        value=value,
        bound=bound,
        packings={
            index: tuple((held, whole_value(hosts)) for held, hosts in packed)
            for index, packed in program.packed.items()
        },
        splits={index: each.used() for index, each in program.splits.items()},
    )


def relaxed_bound(data: ProgramData, target: Target) -> Bound | None:
    """What no allocation exceeds; None when the target is out of reach or unknown."""
    program = Program(data)
    prices: dict[str, float] = {}

    def solve() -> bool:
        try:
            relaxation = solve_relaxation(program.model)
        except InputError:
            return False
        prices.update(relaxation.prices)
        for index, splits in program.splits.items():
            prices[f"{NICS}{index}"] = splits.nic_price(prices)
        return True

    if not data.columns or not _optimise(program, target, solve):
        return None
    value = _value_of(program, target.goal)
    if value is None:
        return None
    used = tuple(
        column
        for column, count in zip(data.columns, program.counts, strict=True)
        if (count.value() or 0.0) > _RATIO_TOLERANCE
    )
    return Bound(value=value, prices=prices, used=used)


def _optimise(program: Program, target: Target, solve: Callable[[], bool]) -> bool:
    """Solve for the goal; False when no allocation reaches it."""
    model = program.model
    if target.rate_rps is not None:
        model += program.rate_rps >= target.rate_rps
    if target.goal is Goal.MAX_GOODPUT_PER_GPU:
        return _maximise_ratio(program, target, solve)
    form = _form(program, target.goal)
    if form is None:
        return False
    model.setObjective(form)
    return solve()


def _form(program: Program, goal: Goal) -> pulp.LpAffineExpression | None:
    """What a linear goal maximises; None when a price or a power is not known."""
    match goal:
        case Goal.MAX_GOODPUT:
            return +program.rate_rps
        case Goal.MIN_COST:
            price = program.usd_per_hour()
            return None if price is None else -price
        case Goal.MIN_POWER:
            power = program.power_w()
            return None if power is None else -power
    return -program.gpus


def _maximise_ratio(
    program: Program, target: Target, solve: Callable[[], bool]
) -> bool:
    """Dinkelbach's iterations; at least one GPU is in use."""
    program.model += program.gpus >= 1
    ratio = 0.0
    for _ in range(_RATIO_ROUNDS):
        program.model.setObjective(program.rate_rps - ratio * program.gpus)
        if not solve():
            return False
        reached = _value_of(program, target.goal) or 0.0
        if reached <= ratio * (1.0 + _RATIO_TOLERANCE):
            break
        ratio = reached
    return True


def _value_of(program: Program, goal: Goal) -> float | None:
    """Value of a goal in the solution."""
    if goal is Goal.MAX_GOODPUT_PER_GPU:
        rate_rps = float(pulp.value(program.rate_rps) or 0.0)
        gpus = float(pulp.value(program.gpus) or 0.0)
        return rate_rps / gpus if gpus > 0 else math.nan
    form = _form(program, goal)
    if form is None:
        return None
    value = float(pulp.value(form) or 0.0)
    return value if goal.is_upper else -value
