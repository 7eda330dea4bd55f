"""Staged layouts: teams of machines in a row, the best rate of the slowest team.

Reference
    The layouts are those of Mei et al., "Helix", ASPLOS 2025, arXiv 2406.01566, with
    every machine in exactly one stage. The dynamic programme and the knapsack are ours.

Idea
    Cut the layers in consecutive stages and give each stage a team of machines that all
    hold the whole stage. Where links do not bind, the order of the stages does not
    matter and a stage passes the sum of its machines' rates. So a layout is a multiset
    of (layers, team), and the best one is a small knapsack: layers add up to the model,
    machines to no more than there are.

Steps
    1. Dynamic programme over (layers covered, machines used) for pools whose states
       can be tabulated; teams grow until none larger can help.
    2. For larger pools an integer programme at a target rate, with the smallest teams
       that reach it as columns; bisection over the rates that teams can have.
    3. The knapsack again, for the fewest stages at a rate: fewer stages, shorter ways.
    4. Idle machines reinforce the weakest stages they can join.

Differences from the paper
    - no integer programme over machines and links: its relaxation says nothing (gaps of
      2000 % after hours) and finds worse layouts;
    - layouts whose layers overlap are left to local search (`planner.pipelines.place`).

Assumes   links that do not bind (the exact flow of the result says whether they do)
Cost      1. layers x teams x states, 0.5 s for 24 machines of 3 kinds;
          2. about 15 programmes of 10 ms each for 42 machines of 7 kinds
Guarantee exact over staged layouts (teams of at most `max_team` machines in step 2)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from clusters.fields import spec
from planner.pipelines.fleet import FloatArray
from planner.pipelines.flow_bound import flow_bound
from planner.pipelines.teams import Pool, Team, all_teams, reinforced, teams_for

MAX_STATES = 20_000
"""Ways to have used machines, up to which the dynamic programme is used."""
MAX_TEAM = 6
"""Machines of a team in the knapsack."""
SOLVER_S = 10.0
"""Most time of one programme; what it has found by then is used."""
_SMALL_TEAM = 3
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """Stages in a row, and the rate of the slowest."""

    tokens_per_s: float = spec("Rate.", unit="tokens/s", ge=0)
    stages: tuple[Team, ...] = spec("Teams.")
    is_exact: bool = spec("Whether no staged layout is faster.", default=False)


def best_staged(pool: Pool, num_layers: int) -> Staged | None:
    """The staged layout with the highest rate and, at that rate, the fewest stages."""
    is_exact = num_states(pool) <= MAX_STATES
    search = highest_rate if is_exact else highest_rate_of_large
    rate = search(pool, num_layers)
    if rate <= 0.0:
        return None
    size = pool.num_machines if is_exact else MAX_TEAM
    stages = fewest_stages(pool, num_layers, rate, max_team=size)
    assert stages is not None, "a rate that was reached"
    # 4. Idle machines.
    teams = reinforced(pool, stages)
    return Staged(tokens_per_s=rate, stages=teams, is_exact=is_exact)


def staged_at(pool: Pool, num_layers: int, rate: float) -> Staged | None:
    """The layout with the fewest stages that passes at least `rate`, or None."""
    stages = fewest_stages(pool, num_layers, rate, max_team=MAX_TEAM)
    if stages is None:
        return None
    teams = reinforced(pool, stages)
    slowest = min(team.tokens_per_s for team in teams)
    return Staged(tokens_per_s=slowest, stages=teams)


# --- 1. Dynamic programme -------------------------------------------------------------


def highest_rate(pool: Pool, num_layers: int) -> float:
    """Highest rate of a staged layout; 0 when the pool cannot hold the model.

    A first pass over small teams gives a rate that is reached, a second over all teams
    that could improve on it.
    """
    reached = float(best_rates(pool, num_layers, _SMALL_TEAM)[num_layers])
    bound = flow_bound(pool, num_layers)
    teams = all_teams(pool, pool.num_machines, least=reached, most=bound)
    return max(reached, float(_tabulate(pool, num_layers, list(teams))[num_layers]))


def best_rates(pool: Pool, num_layers: int, max_team: int) -> FloatArray:
    """Highest rates of staged layouts of the first 0, 1, … layers.

    Shape ``(num_layers + 1,)``; 0 where the pool cannot hold so many.
    """
    return _tabulate(pool, num_layers, list(all_teams(pool, max_team)))


def _tabulate(pool: Pool, num_layers: int, teams: Sequence[Team]) -> FloatArray:
    """The programme: rate by layers covered and (at most) these machines used."""
    shape = tuple(count + 1 for count in pool.counts)
    table = np.zeros((num_layers + 1, *shape))
    table[0] = np.inf
    for covered in range(1, num_layers + 1):
        now = table[covered]
        for team in teams:
            if team.num_layers <= covered:
                used = tuple(slice(count, None) for count in team.counts)
                left = tuple(
                    slice(None, side - count)
                    for side, count in zip(shape, team.counts, strict=True)
                )
                before = table[covered - team.num_layers][left]
                reached = np.minimum(before, team.tokens_per_s)
                np.maximum(now[used], reached, out=now[used])
    return np.asarray([by_used[pool.counts] for by_used in table])


def num_states(pool: Pool) -> int:
    """Ways to have used machines of a pool."""
    return math.prod(count + 1 for count in pool.counts)


# --- 2. and 3. Knapsack ---------------------------------------------------------------


def highest_rate_of_large(pool: Pool, num_layers: int) -> float:
    """Highest rate of a staged layout of teams of at most `MAX_TEAM`."""
    bound = flow_bound(pool, num_layers)
    rates = np.unique([team.tokens_per_s for team in all_teams(pool, MAX_TEAM)])
    rates = rates[rates <= bound * (1.0 + _ROUNDING)]
    low, high = -1, len(rates)
    while high - low > 1:
        middle = (low + high) // 2
        rate = float(rates[middle])
        found = fewest_stages(pool, num_layers, rate, max_team=MAX_TEAM)
        low, high = (middle, high) if found else (low, middle)
    return float(rates[low]) if low >= 0 else 0.0


def fewest_stages(
    pool: Pool, num_layers: int, rate: float, *, max_team: int
) -> tuple[Team, ...] | None:
    """Stages that each reach `rate`, as few as possible; None when there are none.

    Integer programme: a column is a team; its layers add up to the model, its machines
    to at most those there are; the number of columns is least.
    """
    teams = teams_for(pool, rate, max_team)
    if not teams:
        return None
    rows = [[team.counts[kind] for team in teams] for kind in range(len(pool.counts))]
    rows.append([team.num_layers for team in teams])
    lower = [0.0] * len(pool.counts) + [num_layers]
    answer = milp(
        np.ones(len(teams)),
        constraints=LinearConstraint(
            np.array(rows, dtype=np.float64), lower, [*pool.counts, num_layers]
        ),
        integrality=np.ones(len(teams), dtype=np.int64),
        bounds=Bounds(0, num_layers),
        options={"time_limit": SOLVER_S},
    )
    if answer.x is None:
        return None
    numbers = np.rint(answer.x).astype(int)
    return tuple(
        team for team, number in zip(teams, numbers, strict=True) for _ in range(number)
    )
