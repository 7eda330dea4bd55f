"""Regions: machines with fast links stay together."""

import itertools

from planner.pipelines.flow import layer_flow
from planner.pipelines.regions import groups_by_links, region_layouts, regions_of
from tests.planner.pipelines.tiny_fleets import FAST, tiny_fleet

A = ("a", (10.0, 6.0))


def two_sites(slow: float = 1e6):
    """Machines 0, 2 on one site and 1, 3 on the other."""
    links = {
        (one, other): slow
        for one, other in itertools.permutations(range(4), 2)
        if (one + other) % 2
    }
    return tiny_fleet([A] * 4, 4, links=links)


def test_slow_links_part_regions():
    assert groups_by_links(two_sites()) == [(0, 2), (1, 3)]


def test_links_of_about_one_rate_are_one_region():
    assert groups_by_links(two_sites(0.5 * FAST)) == [(0, 1, 2, 3)]


def test_the_rate_of_a_region_is_that_of_its_best_staged_layout():
    # Two machines: one layer together 20, two alone at 10, four at 6 each.
    first, second = regions_of(two_sites())
    assert first.rates == second.rates == (20.0, 12.0, 6.0, 6.0)


def test_regions_are_put_side_by_side_and_in_a_row():
    fleet = two_sites()
    layouts = list(region_layouts(fleet, regions_of(fleet), 1.0))
    assert all(layout.why_not(fleet) is None for layout in layouts)
    flows = [layer_flow(fleet, layout).tokens_per_s for layout in layouts]
    # Side by side each site holds all four layers at 6; in a row it holds two at 12.
    assert max(flows) == 12.0
    crossings = {
        sum(
            segment.feeds(other) and (segment.machine + other.machine) % 2
            for segment in layout.segments
            for other in layout.segments
        )
        for layout in layouts
    }
    assert 0 not in crossings or len(crossings) > 1
