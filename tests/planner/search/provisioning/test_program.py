"""The configuration programme against complete enumeration of what runs where."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from models.parallelism import Parallelism
from planner.deployment import ReplicaShape
from planner.objective import Amounts, Goal
from planner.plan import Status
from planner.search.milp import MilpOutcome, Solver, solve_milp
from planner.search.provisioning import optimum
from planner.search.provisioning.columns import Column
from planner.search.provisioning.hosts import HostClass
from planner.search.provisioning.network import KvNetwork
from planner.search.provisioning.optimum import Target, allocate, relaxed_bound
from planner.search.provisioning.program import ProgramData
from planner.simulator.system import Phase
from tests.planner.search.provisioning.enumeration import best_rate

SPLIT = (Phase.PREFILL, Phase.DECODE)


def host_class(num_gpus=4, num_hosts=1, nic=1e9, price=1.0, name="tiny", watts=100.0):
    """Hosts of one island each; GPU numbers do not matter to the programme."""
    return HostClass(
        gpu_type=name,
        node_type="node",
        island_sizes=(num_gpus,),
        nic_bytes_per_s=nic,
        usd_per_gpu_hour=price,
        power_w_per_gpu=watts,
        hosts=tuple(((tuple(range(num_gpus)),)) for _ in range(num_hosts)),
    )


def column(phase, rate, tp=1, pp=1, host_class=0):
    shape = ReplicaShape(
        phase=phase, gpu_type="tiny", parallelism=Parallelism(tp=tp, pp=pp)
    )
    return Column(host_class=host_class, shape=shape, rate_rps=rate)


def data_of(classes, columns, kv_bytes=0.0, **limits):
    network = KvNetwork(
        vertices=("leaves",),
        links=(),
        kv_bytes_per_request=kv_bytes,
        efficiency_frac=1.0,
    )
    return ProgramData(
        classes=tuple(classes), columns=tuple(columns), network=network, **limits
    )


def numbers(allocation):
    return {str(c.shape): n for c, n in allocation.counts}


def test_phases_are_balanced_by_hand():
    # Prefill 2/s and decode 3/s a GPU, on four: 2 + 2 serve 4; 3 + 1 only 3.
    columns = [column(Phase.PREFILL, 2.0), column(Phase.DECODE, 3.0)]
    data = data_of([host_class()], columns)
    found = allocate(data, Target(goal=Goal.MAX_GOODPUT))
    assert found.rate_rps == pytest.approx(4.0)
    assert found.num_gpus == 4
    # In parts of GPUs: 2.4 that prefill and 1.6 that decode serve 4.8.
    bound = relaxed_bound(data, Target(goal=Goal.MAX_GOODPUT))
    assert bound.value == pytest.approx(4.8)
    assert bound.prices["gpus_0"] == pytest.approx(1.2)


def test_the_fewest_gpus_of_those_that_serve_as_much():
    # One decode GPU limits the rate to 3: a second prefill GPU is enough.
    columns = [column(Phase.PREFILL, 2.0), column(Phase.DECODE, 3.0, tp=2)]
    found = allocate(data_of([host_class()], columns), Target(goal=Goal.MAX_GOODPUT))
    assert numbers(found) == {"prefill tiny TP1 PP1": 2, "decode tiny TP2 PP1": 1}


def test_groups_that_do_not_divide_each_other_are_packed_exactly():
    # Groups of three and of two on hosts of five: one of each a host, 10 GPUs in all.
    columns = [column(Phase.PREFILL, 1.0, tp=3), column(Phase.DECODE, 1.0, tp=2)]
    data = data_of([host_class(5, 2)], columns)
    found = allocate(data, Target(goal=Goal.MAX_GOODPUT))
    assert found.rate_rps == pytest.approx(2.0)
    held = {tuple(sorted(p.items())): n for p, n in found.packings[0] if n}
    assert held == {((2, 1), (3, 1)): 2}
    # On hosts of four a host holds one of the two only.
    four = allocate(data_of([host_class(4, 2)], columns), Target(goal=Goal.MAX_GOODPUT))
    assert four.rate_rps == pytest.approx(1.0)


def test_a_slow_network_keeps_both_phases_on_each_class():
    # The second class decodes at 10/s, but 100 bytes/s carry only one cache a second.
    columns = [
        column(Phase.PREFILL, 4.0, host_class=0),
        column(Phase.DECODE, 1.0, host_class=0),
        column(Phase.DECODE, 10.0, host_class=1),
    ]
    classes = [host_class(2, nic=100.0), host_class(1, nic=100.0)]
    fast = allocate(data_of(classes, columns), Target(goal=Goal.MAX_GOODPUT))
    assert fast.rate_rps == pytest.approx(8.0)
    slow = allocate(
        data_of(classes, columns, kv_bytes=100.0), Target(goal=Goal.MAX_GOODPUT)
    )
    assert slow.rate_rps == pytest.approx(2.0)


def test_cost_and_limits_by_hand():
    # 3/s: prefill on the cheap GPUs (2 $ for 4/s), decode on the dear one (3 $).
    columns = [
        column(Phase.PREFILL, 2.0, host_class=0),
        column(Phase.PREFILL, 4.0, host_class=1),
        column(Phase.DECODE, 3.0, host_class=1),
    ]
    classes = [host_class(4, price=1.0), host_class(4, price=3.0)]
    target = Target(goal=Goal.MIN_COST, rate_rps=3.0)
    assert allocate(data_of(classes, columns), target).value == pytest.approx(5.0)
    few = data_of(classes, columns, max_gpus=2)
    assert allocate(few, target).value == pytest.approx(6.0)
    assert allocate(data_of(classes, columns, max_gpus=1), target) is None
    free = [host_class(4, price=None), host_class(4)]
    assert allocate(data_of(free, columns), target) is None


def random_data(rng):
    """At most three classes and eight GPUs, six columns, slow and fast networks."""
    classes, total = [], 0
    for _ in range(int(rng.integers(1, 4))):
        gpus, hosts = int(rng.integers(1, 5)), int(rng.integers(1, 3))
        if total + gpus * hosts <= 8:
            total += gpus * hosts
            nic = float(rng.choice([1.0, 50.0, 1e9]))
            price, watts = (float(n) for n in rng.integers(1, 5, size=2))
            classes.append(host_class(gpus, hosts, nic, price, watts=watts))
    columns = []
    together = rng.random() < 0.3
    for _ in range(int(rng.integers(2, 6))):
        index = int(rng.integers(len(classes)))
        tp = int(rng.integers(1, classes[index].num_gpus + 1))
        pp = int(rng.integers(1, 3))
        phase = Phase.AGGREGATED if together else SPLIT[int(rng.integers(2))]
        rate = float(rng.uniform(0.5, 3.0)) * (tp * pp) ** 0.9
        columns.append(column(phase, rate, tp, pp, index))
    if not together:
        present = {c.shape.phase for c in columns}
        columns += [column(phase, 1.0) for phase in SPLIT if phase not in present]
    return data_of(classes, columns, kv_bytes=float(rng.choice([0.0, 20.0])))


def exhaustive(data, goal, rate_rps, then=None):
    """Best values of the goals over all numbers of replicas; None: none is allowed."""
    most = [
        data.classes[c.host_class].num_gpus
        * data.classes[c.host_class].num_hosts
        // c.num_gpus
        for c in data.columns
    ]
    best = None
    for counts in itertools.product(*(range(n + 1) for n in most)):
        if not any(counts) or not is_within(data, amounts(data, counts, 0.0)):
            continue
        rate = best_rate(data, counts)
        if rate is None or (goal.needs_rate and rate < rate_rps - 1e-9):
            continue
        taken = amounts(data, counts, rate)
        values = [-taken.cost(goal)] + ([] if then is None else [-taken.cost(then)])
        best = values if best is None else max(best, values)
    return best


def amounts(data, counts, rate):
    used = [
        (data.classes[c.host_class], c.num_gpus * n)
        for c, n in zip(data.columns, counts, strict=True)
    ]
    return Amounts(
        rate_rps=rate,
        num_gpus=sum(n for _, n in used),
        usd_per_hour=sum(k.usd_per_gpu_hour * n for k, n in used),
        power_w=sum(k.power_w_per_gpu * n for k, n in used),
    )


def is_within(data, taken):
    """All replicas are of one GPU type here."""
    limits = (data.max_usd_per_hour, data.max_power_w, data.available_gpus.get("tiny"))
    used = (taken.usd_per_hour, taken.power_w, taken.num_gpus)
    return all(m is None or u <= m + 1e-9 for u, m in zip(used, limits, strict=True))


@pytest.mark.parametrize("seed", range(50))
def test_the_programme_is_the_optimum_and_within_its_bound(seed):
    rng = np.random.default_rng(seed)
    data = random_data(rng)
    for goal in Goal:
        check_optimum(data, goal, float(rng.uniform(0.5, 4.0)))


@pytest.mark.parametrize("seed", range(50, 100))
def test_limits_and_second_goals_are_exact_too(seed):
    rng = np.random.default_rng(seed)
    data = replace(
        random_data(rng),
        max_usd_per_hour=rng.choice([None, 6.0, 12.0]),
        max_power_w=rng.choice([None, 5.0, 10.0]),
        available_gpus={"tiny": int(rng.integers(0, 8))} if rng.random() < 0.5 else {},
    )
    goal = list(Goal)[int(rng.integers(len(Goal)))]
    then = [Goal.MIN_GPUS, Goal.MIN_COST, Goal.MIN_POWER][int(rng.integers(3))]
    if then is goal:
        then = Goal.MAX_GOODPUT
    check_optimum(data, goal, float(rng.uniform(0.5, 4.0)), then)


def check_optimum(data, goal, rate, then=None):
    """The programme's optimum is that of the enumeration, the bound no worse."""
    rate = rate if goal.needs_rate else None
    best = exhaustive(data, goal, rate, then)
    target = Target(goal=goal, then=then, rate_rps=rate)
    found = allocate(data, target)
    if best is None or best[0] == 0:
        assert found is None
        return
    sign = 1.0 if goal.is_upper else -1.0
    assert sign * found.value == pytest.approx(best[0], rel=1e-5)
    bound = relaxed_bound(data, target)
    assert sign * bound.value >= best[0] * (1 - np.sign(best[0]) * 1e-6)
    if then is not None:
        counts = [dict(found.counts).get(c, 0) for c in data.columns]
        taken = amounts(data, counts, found.rate_rps)
        assert is_within(data, taken)
        # The first goal is held within 1e-6, which may admit what is cheaper still.
        assert -taken.cost(then) >= best[1] - 1e-5 * abs(best[1])


def test_a_second_goal_takes_what_the_first_leaves_open():
    # One GPU of either class serves 1/s. The cheap one takes 300 W, the other 100 W.
    columns = [column(Phase.AGGREGATED, 1.0, host_class=k) for k in (0, 1)]
    classes = [host_class(1, price=1.0, watts=300.0), host_class(1, price=1.1)]
    data = data_of(classes, columns)
    target = Target(goal=Goal.MIN_COST, then=Goal.MIN_POWER, rate_rps=1.0)
    assert allocate(data, target).value == pytest.approx(1.0)
    # For a tenth of the price more, two thirds of the power are saved.
    yielding = replace(target, give_up_frac=0.1)
    assert allocate(data, yielding).value == pytest.approx(1.1)
    power = replace(target, goal=Goal.MIN_POWER, then=None)
    assert allocate(data, power).value == pytest.approx(100.0)


def test_budget_power_and_availability_by_hand():
    columns = [column(Phase.AGGREGATED, 1.0)]
    data = data_of([host_class(4, price=2.0, watts=100.0)], columns)
    target = Target(goal=Goal.MAX_GOODPUT)
    for limits, rate in (
        ({"max_usd_per_hour": 7.0}, 3.0),
        ({"max_power_w": 250.0}, 2.0),
        ({"available_gpus": {"tiny": 1}}, 1.0),
        ({"available_gpus": {"other": 0}}, 4.0),
    ):
        assert allocate(replace(data, **limits), target).rate_rps == rate
    assert allocate(replace(data, available_gpus={"tiny": 0}), target) is None
    unknown = replace(data, classes=(host_class(4, watts=None),), max_power_w=1e9)
    assert allocate(unknown, target) is None


def test_a_second_goal_that_the_solver_misses_leaves_the_first(monkeypatch):
    # HiGHS has taken programmes with the first goal held for infeasible (presolve).
    asked = []

    def once(program, **settings):
        asked.append(program)
        if len(asked) == 1:
            return solve_milp(program, **settings)
        for variable in program.variables():
            variable.varValue = None
        return MilpOutcome(
            status=Status.INFEASIBLE,
            value=None,
            bound=None,
            solver=Solver.HIGHS,
            runtime_s=0.0,
        )

    monkeypatch.setattr(optimum, "solve_milp", once)
    columns = [column(Phase.PREFILL, 2.0), column(Phase.DECODE, 3.0, tp=2)]
    found = allocate(data_of([host_class()], columns), Target(goal=Goal.MAX_GOODPUT))
    assert len(asked) == 2
    assert (found.rate_rps, found.value, found.bound) == pytest.approx((3.0, 3.0, 3.0))


def test_no_columns_serve_nothing():
    data = data_of([host_class()], [])
    for goal in Goal:
        assert allocate(data, Target(goal=goal, rate_rps=1.0)) is None
        assert relaxed_bound(data, Target(goal=goal, rate_rps=1.0)) is None
    assert replace(data, max_gpus=1).phases == ()
