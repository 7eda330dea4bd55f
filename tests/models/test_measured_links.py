"""Latency and rate of a link are told apart, and land in a cluster file."""

import pytest

from clusters.cluster import Cluster
from clusters.fields import InputError
from clusters.mapping import from_mapping, to_mapping
from clusters.serde import dump_yaml, parse_yaml
from models.measured_links import (
    MeasuredLink,
    alike,
    fabric_of,
    fit_links,
    narrower_nodes,
    with_measured_links,
)
from models.profile_records import Environment, LinkRecord, Spread
from models.profile_table import format_record, parse_record

HERE = Environment(device="synthetic", device_name="paper", gpu="paper")
SIZES = (1 << 10, 1 << 20, 1 << 28)


def record(
    hosts: tuple[str, str], size: int, ms: float, num_pairs: int = 1
) -> LinkRecord:
    return LinkRecord(
        environment=HERE,
        library="nccl",
        hosts=hosts,
        num_pairs=num_pairs,
        message_bytes=size,
        spread=Spread(ms=ms, p10_ms=ms, p90_ms=ms, ci_frac=0.0, num_samples=9),
    )


def law(
    hosts: tuple[str, str],
    *,
    rate: float = 50e9,
    latency_ms: float = 0.02,
    num_pairs: int = 1,
) -> list[LinkRecord]:
    """Messages that take a latency and their bytes over a rate."""
    return [
        record(hosts, n, latency_ms + num_pairs * n / rate * 1e3, num_pairs)
        for n in SIZES
    ]


def link(a: str, b: str, rate: float, latency_ms: float = 0.0) -> MeasuredLink:
    return MeasuredLink(
        hosts=(a, b), bytes_per_s=rate, latency_ms=latency_ms, error_frac=0.0
    )


def cluster(*names: str, racks: dict[str, str] | None = None) -> Cluster:
    nodes = [
        {"name": name, "type": "p5.48xlarge", "rack": (racks or {}).get(name)}
        for name in names
    ]
    return from_mapping(Cluster, {"name": "mine", "nodes": nodes})


def test_record_reads_back_as_it_was() -> None:
    found = record(("east", "west"), 1024, 2.0)
    assert parse_record(format_record(found).encode()) == found


def test_latency_and_rate_of_a_law_are_recovered() -> None:
    (found,) = fit_links(law(("b", "a")))
    assert found.hosts == ("a", "b")
    assert found.bytes_per_s == pytest.approx(50e9)
    assert found.latency_ms == pytest.approx(0.02)
    assert found.error_frac == pytest.approx(0.0, abs=1e-9)


def test_rate_is_that_of_all_pairs_together() -> None:
    # Eight pairs share the link: each message takes eight times as long.
    (found,) = fit_links(law(("a", "b"), num_pairs=8))
    assert found.bytes_per_s == pytest.approx(50e9)


def test_noise_of_a_few_percent_moves_the_rate_by_as_much() -> None:
    noisy = [
        record(("a", "b"), r.message_bytes, r.spread.ms * factor)
        for r, factor in zip(law(("a", "b")), (1.04, 0.97, 1.02), strict=True)
    ]
    (found,) = fit_links(noisy)
    assert found.bytes_per_s == pytest.approx(50e9, rel=0.05)
    assert found.latency_ms == pytest.approx(0.02, rel=0.1)
    assert 0.0 < found.error_frac < 0.06


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([], "measured with --links"),
        (law(("a", "b"))[:1], "a and b.message_bytes"),
        ([record(("a", "b"), n, 9.0 - n * 1e-9) for n in SIZES], "grow with"),
    ],
    ids=["none", "one_size", "falling"],
)
def test_what_gives_no_link_is_refused(records: list[LinkRecord], told: str) -> None:
    with pytest.raises(InputError, match=told):
        fit_links(records)


def test_host_has_no_link_to_itself() -> None:
    with pytest.raises(InputError, match="two different hosts"):
        record(("a", "a"), 8, 1.0)


def test_rates_that_differ_by_noise_are_one_rate() -> None:
    links = [
        link("a", "b", 50e9),
        link("a", "c", 52e9),
        link("b", "c", 54e9),
        link("a", "d", 10e9),
    ]
    rates = [each.bytes_per_s for each in alike(links)]
    assert rates == [52e9, 52e9, 52e9, 10e9]


def test_links_take_the_place_of_the_network_in_a_cluster() -> None:
    (found,) = fit_links(law(("a", "b"), rate=40e9, latency_ms=0.05))
    whole = with_measured_links(cluster("a", "b"), fabric_of([found], {}))
    path = whole.topology.path(0, 8)
    # p5.48xlarge: 32 NICs of 12.5 GB/s and PCIe of more than the link carries.
    assert path.bytes_per_s == pytest.approx(40e9)
    # What the NICs add is not counted twice: the whole way takes what was measured.
    assert path.latency_ms == pytest.approx(0.05)
    assert narrower_nodes(whole) == ()
    again = parse_yaml(dump_yaml(to_mapping(whole)), "mine.yaml")
    assert from_mapping(Cluster, again) == whole


def test_hosts_are_given_the_names_of_their_nodes() -> None:
    (found,) = fit_links(law(("ip-10-0-0-1", "ip-10-0-0-2")))
    fabric = fabric_of([found], {"ip-10-0-0-1": "a", "ip-10-0-0-2": "b"})
    assert fabric.links[0].between == ("a", "b")
    with pytest.raises(InputError, match="racks or nodes without a rack"):
        with_measured_links(cluster("a", "b"), fabric_of([found], {}))


def test_racks_are_joined_by_their_names() -> None:
    (found,) = fit_links(law(("a", "b"), latency_ms=0.1))
    racked = cluster("a", "b", "c", racks={"a": "r0", "b": "r1", "c": "r1"})
    whole = with_measured_links(racked, fabric_of([found], {"a": "r0", "b": "r1"}))
    assert whole.topology.path(0, 8).latency_ms == pytest.approx(0.1)


def test_three_hosts_reach_each_other_over_the_link_that_was_measured() -> None:
    records = [
        *law(("a", "b"), rate=40e9),
        *law(("a", "c"), rate=41e9),
        *law(("b", "c"), rate=42e9),
    ]
    fabric = fabric_of(fit_links(records), {})
    assert fabric.allow_cycles
    whole = with_measured_links(cluster("a", "b", "c"), fabric)
    for source, target in ((0, 8), (0, 16), (8, 16)):
        vertices = [
            whole.topology.edges[edge].source
            for edge in whole.topology.path(source, target).edges
        ]
        # Through the two hosts' own ports and no third one's.
        assert sum(vertex.startswith("leaf:") for vertex in vertices) == 2


def test_node_narrower_than_what_was_measured_is_told() -> None:
    (found,) = fit_links(law(("a", "b"), rate=900e9))
    whole = with_measured_links(cluster("a", "b"), fabric_of([found], {}))
    (line,) = narrower_nodes(whole)
    assert line.startswith("a and b: measured 900 GB/s, but the NICs")
