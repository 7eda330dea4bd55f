"""Placement: which GPUs a replica gets."""

from clusters.cluster import Cluster
from planner.placement import FreeGpus, Host, place
from planner.simulator.system import Phase
from tests.clusters.tiny_clusters import make_tiny_cluster
from tests.planner.tiny_problems import mixed_cluster, shape, tiny_cluster


def free_after(cluster, *taken):
    free = FreeGpus.of(cluster)
    for each in taken:
        assert free.take_replica(each) is not None
    return free


def test_a_group_comes_from_the_tightest_island_that_has_room():
    host = Host(gpu_type="tiny", islands=[[0, 1, 2, 3], [4, 5]])
    assert host.take(2) == (4, 5)
    assert host.take(3) == (0, 1, 2)


def test_a_group_wider_than_any_island_takes_from_several():
    host = Host(gpu_type="tiny", islands=[[0, 1], [2, 3]])
    assert host.take(3) == (0, 1, 2)
    assert host.num_free == 1


def test_pairs_of_nvlink_are_islands():
    pairs = Cluster.load("nvlink_pairs_a6000")
    gpu_type = pairs.gpu_types()[0].name
    free = FreeGpus.of(pairs)
    assert all(len(island) == 2 for host in free.hosts for island in host.islands)
    (stage,) = free.take_replica(shape(Phase.AGGREGATED, tp=2, gpu_type=gpu_type))
    assert stage in pairs.topology.islands(0)


def test_small_replicas_go_where_big_ones_no_longer_fit():
    free = free_after(tiny_cluster(2), shape(Phase.AGGREGATED, tp=2))
    assert free.take_replica(shape(Phase.AGGREGATED)) == ((2,),)
    assert free.take_replica(shape(Phase.AGGREGATED, tp=4)) == ((4, 5, 6, 7),)


def test_stages_stay_on_the_node_before_while_they_fit():
    free = free_after(tiny_cluster(2), shape(Phase.AGGREGATED))
    # Three free on the first node, four on the second: two stages of two fit there.
    assert free.take_replica(shape(Phase.AGGREGATED, tp=2, pp=2)) == ((4, 5), (6, 7))


def test_a_pipeline_may_span_nodes_but_a_stage_may_not():
    cluster = tiny_cluster(2)
    free = FreeGpus.of(cluster)
    assert free.take_replica(shape(Phase.AGGREGATED, tp=4, pp=2)) == (
        (0, 1, 2, 3),
        (4, 5, 6, 7),
    )
    assert place(cluster, [shape(Phase.AGGREGATED, tp=8)]) is None


def test_nothing_is_taken_when_a_replica_does_not_fit():
    free = free_after(
        tiny_cluster(2), shape(Phase.AGGREGATED), shape(Phase.AGGREGATED, tp=4)
    )
    assert free.num_free("tiny") == 3
    # Three are free on one node: one stage of two, not two.
    assert free.take_replica(shape(Phase.AGGREGATED, tp=2, pp=2)) is None
    assert free.num_free("tiny") == 3


def test_an_nvlink_domain_is_one_host():
    racks = Cluster.load("gb200_nvl72")
    free = FreeGpus.of(racks)
    assert [host.num_free for host in free.hosts] == [72]
    (stage,) = free.take_replica(shape(Phase.AGGREGATED, tp=8, gpu_type="gb200"))
    assert len({racks.topology.gpu(gpu).node for gpu in stage}) > 1


def test_replicas_get_their_own_gpu_type():
    prefill, decode = shape(Phase.PREFILL), shape(Phase.DECODE, gpu_type="other")
    assert place(mixed_cluster(), [prefill, decode]) == [((0,),), ((2,),)]
    assert place(mixed_cluster(), [shape(Phase.AGGREGATED, gpu_type="none")]) is None


def test_single_pcie_gpus_are_islands_of_one():
    free = FreeGpus.of(make_tiny_cluster())
    assert free.hosts[0].islands == [[0], [1], [2], [3]]
    assert free.largest_group("tiny") == 4


def test_prefill_and_decode_alternate_so_that_pairs_are_near():
    shapes = [shape(Phase.PREFILL)] * 2 + [shape(Phase.DECODE)] * 2
    placed = place(tiny_cluster(2, gpus_per_node=2), shapes)
    assert placed == [((0,),), ((2,),), ((1,),), ((3,),)]


def test_a_copy_is_independent():
    free = FreeGpus.of(tiny_cluster())
    free.copy().take_replica(shape(Phase.AGGREGATED, tp=4))
    assert free.num_free("tiny") == 4


def test_gpus_that_are_taken_count_towards_the_quota():
    # Six of eight may be used; the four of the first node are.
    free = FreeGpus.of(tiny_cluster(2, 4), {"tiny": 6}).without({0, 1, 2, 3})
    assert free.num_free("tiny") == 2
    assert free.most_replicas(shape(Phase.DECODE, 2)) == 1
    assert free.take_replica(shape(Phase.DECODE, 2)) == ((4, 5),)
