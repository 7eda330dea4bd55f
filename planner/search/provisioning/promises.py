"""Promises: rates of columns by short runs, simulated only where they may matter.

Reference
    Columns that are priced when they are needed: Gilmore and Gomory, "A Linear
    Programming Approach to the Cutting-Stock Problem", Operations Research 9(6), 1961;
    bounds that are replaced by costly true values only where an optimum relies on
    them: Dellin and Srinivasa, "A Unifying Formalism for Shortest Path Problems with
    Expensive Edge Evaluations", ICAPS 2016 (lazy search).

Idea
    No replica exceeds its capacity bound, which takes a millisecond to work out, while
    a simulated rate takes a tenth of a second. So every column starts at its bound, and
    whoever has solved a programme asks for promises of the columns that the solution
    uses. A solution that uses none but promised columns is the optimum with all columns
    promised, since the others would only be worse than they were taken to be.

Steps
    1. Columns at their bounds: a goodput never exceeds the bound on the same requests.
    2. `open_of`: columns of a solution that are not promised, or whose reach
       (`planner.search.provisioning.reach`) is by the rate of one that is not.
    3. `promise`: the same columns, simulated.

Assumes   bounds that hold (`planner.search.batching.batching_bound_rps`)
Guarantee exact: rates only fall, to what simulating all columns would have given;
          still a bound, but perhaps a looser one, where columns that turn out to
          serve nothing were so many that fewer splits of slow hosts were told apart
          (`planner.search.provisioning.splits`)
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from models.parallelism import Parallelism
from planner.deployment import Deployment
from planner.goodput import capacity_sample
from planner.search.batching import batching_bound_rps
from planner.search.contract import STOPPED, Ledger, SearchContext
from planner.search.phases import capacity_alone_rps, phase_slo, rate_alone
from planner.search.provisioning.columns import Column, Configuration, alike
from planner.search.provisioning.program import ProgramData
from planner.search.provisioning.reach import relied_on, within_reach
from planner.simulator.system import Phase
from planner.workload.requests import Requests

NOT_NEEDED = "its bound promises too little for any answer"
HOPELESS = "no batching meets the SLO for long"

Place = tuple[int, Phase, Parallelism]
"""What tells columns apart, whatever their batch limits: host class and shape."""


def place_of(column: Column) -> Place:
    """Where in the list of columns one is."""
    return column.host_class, column.shape.phase, column.shape.parallelism


@dataclass(slots=True)
class Promises:
    """Columns at their bounds, or at what a short run promises."""

    given: ProgramData
    """With the columns at their bounds."""
    simulated: Callable[[int], Column | None]
    """The column of an index as a short run has it; None when the search is stopped."""
    alike: Sequence[Hashable]
    """Of each column: what those of one rate have in common."""
    num_changes: int = 0
    _columns: list[Column] = field(default_factory=list)
    _promised: set[Hashable] = field(default_factory=set)
    _index: dict[Place, int] = field(default_factory=dict)
    _data: ProgramData | None = None

    def __post_init__(self) -> None:
        self._columns = list(self.given.columns)
        self._index = {place_of(c): i for i, c in enumerate(self._columns)}

    @property
    def data(self) -> ProgramData:
        """The programme's data with the rates known so far, within reach."""
        if self._data is None:
            given = self.given
            columns = within_reach(given.classes, self._served(), given.network)
            self._data = replace(given, columns=columns)
        return self._data

    def _served(self) -> list[Column]:
        return [column for column in self._columns if column.rate_rps > 0]

    @property
    def num_open(self) -> int:
        """Rates of columns that have not been simulated and could be."""
        return len({a for a, c in self._open() if c.rate_rps > 0})

    @property
    def num_hopeless(self) -> int:
        """The same with a bound of 0."""
        return len({a for a, c in self._open() if c.rate_rps <= 0})

    def _open(self) -> list[tuple[Hashable, Column]]:
        both = zip(self.alike, self._columns, strict=True)
        return [(a, c) for a, c in both if a not in self._promised]

    def open_of(self, used: Iterable[Column]) -> list[int]:
        """Columns that have to be promised for the rates of those used to be right."""
        # 2. Those used, and those that their reach is by.
        classes, network = self.given.classes, self.given.network
        served = self._served()
        found = set()
        for column in used:
            index = self._index[place_of(column)]
            found.add(index)
            other = relied_on(classes, served, network, self._columns[index])
            if other is not None:
                found.add(self._index[place_of(other)])
        return sorted(i for i in found if self.alike[i] not in self._promised)

    def promise(self, indices: Iterable[int]) -> None:
        """Simulate columns, and with each all that have its rate."""
        # 3. Short runs.
        for index in indices:
            key = self.alike[index]
            if key in self._promised:
                continue
            self._promised.add(key)
            self.num_changes += 1
            self._data = None
            found = self.simulated(index)
            for same, other in enumerate(self.alike):
                if other == key and found is None:
                    self._columns[same] = replace(self._columns[same], rate_rps=0.0)
                elif other == key and found is not None:
                    host_class = self._columns[same].host_class
                    self._columns[same] = replace(found, host_class=host_class)

    def promise_fastest(self, classes: Iterable[int]) -> None:
        """Simulate until the best rate per GPU on each class is a promised one."""
        for host_class in classes:
            while there := [c for c in self.data.columns if c.host_class == host_class]:
                best = max(there, key=lambda c: c.rate_rps / c.num_gpus)
                waiting = self.open_of([best])
                if not waiting:
                    break
                self.promise(waiting)

    def open_in(self, deployment: Deployment) -> list[int]:
        """The same as `open_of` for the replicas of a deployment, on any class."""
        kinds = {(r.phase, r.gpu_type, r.parallelism) for r in deployment.replicas}
        return self.open_of(
            column
            for column in self.data.columns
            if (column.shape.phase, column.shape.gpu_type, column.shape.parallelism)
            in kinds
        )

    def count_open(self, ledger: Ledger, *, is_stopped: bool) -> None:
        """Count the columns that have not been simulated, with the reason."""
        ledger.reject(STOPPED if is_stopped else NOT_NEEDED, self.num_open)
        ledger.reject(HOPELESS, self.num_hopeless)


def promises_of(
    context: SearchContext,
    data: ProgramData,
    found: Sequence[Configuration],
    ledger: Ledger,
    *,
    pool_size: int,
) -> Promises:
    """Columns of configurations, at their bounds; short runs are of a pool.

    `data` is the programme's, still without columns. Columns that differ in nothing but
    their leaf switch have the same rates.
    """
    bounds: dict[Hashable, float] = {}
    samples = samples_of(context)
    for each in found:
        if alike(each) not in bounds:
            bounds[alike(each)] = _bound_rps(context, each, samples)
    columns = tuple(
        Column(
            host_class=each.host_class,
            shape=each.alone.replicas[0].shape,
            rate_rps=bounds[alike(each)],
        )
        for each in found
    )

    def simulated(index: int) -> Column | None:
        each = found[index]
        phase = columns[index].shape.phase
        # Without a guess: a rate is not to depend on what was looked at before.
        rated = rate_alone(
            context,
            (each.alone,),
            phase,
            ledger,
            pool_sizes=[pool_size],
            is_guessed=False,
        )
        if not rated:
            return None
        return replace(
            columns[index],
            shape=rated[0].shape,
            rate_rps=rated[0].rate_rps,
            light_load_frac=rated[0].light_load_frac,
        )

    # 1. At their bounds.
    return Promises(
        given=replace(data, columns=columns),
        simulated=simulated,
        alike=[alike(each) for each in found],
    )


def samples_of(context: SearchContext) -> list[Requests]:
    """The requests by which short runs are held to what lasts, of every seed."""
    evaluator = context.evaluator
    effort, workload = evaluator.effort, context.problem.service.workload
    return [
        capacity_sample(workload, effort, evaluator.seed + run)
        for run in range(effort.num_seeds)
    ]


def _bound_rps(
    context: SearchContext, each: Configuration, samples: Sequence[Requests]
) -> float:
    """Rate that no batching of a replica exceeds, nor its share of a pool."""
    planner = context.evaluator.planner
    (replica,) = each.alone.replicas
    part = phase_slo(context.problem.service.slo, replica.phase)
    if part is None:
        return capacity_alone_rps(context, each.alone)
    return max(
        batching_bound_rps(planner, each.alone, part, sample) for sample in samples
    )
