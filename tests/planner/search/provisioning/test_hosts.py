"""Host classes and packings."""

from planner.search.provisioning.hosts import host_classes, packings
from tests.planner.tiny_problems import mixed_cluster, tiny_cluster


def test_hosts_alike_are_one_class():
    (only,) = host_classes(tiny_cluster(3, 4), ("tiny",))
    assert (only.num_hosts, only.num_gpus, only.usd_per_gpu_hour) == (3, 4, 2.5)
    assert only.nic_bytes_per_s == 2e9
    assert only.free().num_free("tiny") == 12


def test_gpu_types_are_told_apart_and_may_be_left_out():
    both = host_classes(mixed_cluster(), ("tiny", "other"))
    assert [hosts.gpu_type for hosts in both] == ["tiny", "other"]
    assert len(host_classes(mixed_cluster(), ("other",))) == 1


def test_packings_are_all_maximal_fillings():
    # Of 7 with threes and twos: 3+3 (1 left), 3+2+2, 2+2+2 (1 left).
    assert packings(7, (2, 3)) == [(2, 0), (1, 2), (0, 3)]
    assert packings(4, (4,)) == [(1,)]
    assert packings(72, tuple(range(1, 20))) is None
