"""Teams: the smallest that reach a rate, and where idle machines go."""

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.pipelines.teams import Pool, all_teams, reinforced, teams_for

POOL = Pool(names=("a", "b"), counts=(2, 3), rates=((8.0, 5.0), (3.0,)))


def test_a_team_reaches_the_rate_and_can_spare_nobody():
    # 9 tokens/s with one layer: a + a, a + b, or b + b + b. With two only a + a = 10.
    found = {(team.num_layers, team.counts) for team in teams_for(POOL, 9.0, 5)}
    assert found == {(1, (2, 0)), (1, (1, 1)), (1, (0, 3)), (2, (2, 0))}


def test_small_teams_only():
    found = {(team.num_layers, team.counts) for team in teams_for(POOL, 9.0, 2)}
    assert found == {(1, (2, 0)), (1, (1, 1)), (2, (2, 0))}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 9).map(float), min_size=3, max_size=3),
    st.lists(st.integers(0, 3), min_size=3, max_size=3),
    st.integers(1, 30).map(float),
)
def test_teams_are_all_that_reach_the_rate_with_nobody_to_spare(rates, counts, rate):
    pool = Pool(
        names=("a", "b", "c"), counts=tuple(counts), rates=tuple((r,) for r in rates)
    )
    expected = {
        team
        for team in product(*(range(count + 1) for count in counts))
        if (total := sum(n * r for n, r in zip(team, rates, strict=True))) >= rate
        and not any(n and total - r >= rate for n, r in zip(team, rates, strict=True))
    }
    assert {team.counts for team in teams_for(pool, rate, 9)} == expected


def test_all_teams_leave_out_what_adds_nothing():
    # Nothing exceeds 8 tokens/s, so no one joins an a with one layer.
    found = {t.counts for t in all_teams(POOL, 5, most=8.0) if t.num_layers == 1}
    assert (1, 0) in found
    assert (0, 3) in found
    assert (1, 1) not in found


def test_idle_machines_join_the_weakest_stage_they_fit():
    stages = [POOL.team(2, (1, 0)), POOL.team(1, (0, 1))]
    # b holds one layer only: the two idle ones join the second stage, then a the first.
    assert [team.counts for team in reinforced(POOL, stages)] == [(2, 0), (0, 3)]


def test_a_share_of_the_layers_shortens_every_kind():
    assert POOL.with_layers_frac(0.5).rates == ((8.0,), (3.0,))
