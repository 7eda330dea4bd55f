"""Replay: simulate a plan again, on its own workload or with another, or engine."""

from dataclasses import dataclass, replace

from clusters.fields import InputError, check_fields, spec
from models.latency.library import LatencyLibrary
from planner.admission import Admission
from planner.cells import MOST_REPLICAS, is_of_cells
from planner.deployment import Deployment
from planner.engines import EnginePreset, EngineSource
from planner.evaluate import Evaluator
from planner.evaluation import Evaluation, summarize
from planner.flow_routing import with_shares
from planner.objective import Objective
from planner.plan import Plan
from planner.problem import EngineSettings
from planner.serving import Planner, kv_routes, stage_types
from planner.simulator.outcome import SimulationResult
from planner.simulator.outside_schedule import OutsideEvent, OutsideSchedule
from planner.simulator.prefix_settings import AdmissionRule
from planner.simulator.system import Routing
from planner.solve import library_for
from planner.workload.arrivals import ClosedLoop
from planner.workload.lengths import EmpiricalLengths
from planner.workload.trace_source import TraceSource
from planner.workload.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """What to replay; by default exactly what the plan's evaluation replayed."""

    trace: str | None = spec("Trace file.", default=None)
    rate_rps: float | None = spec(
        "Mean rate to scale to.", unit="requests/s", gt=0, default=None
    )
    concurrency: int | None = spec(
        "Closed loop with so many requests at a time.",
        unit="requests",
        ge=1,
        default=None,
    )
    ramp_s: float | None = spec(
        "Closed loop: the clients begin one after the other over this time.",
        unit="s",
        ge=0,
        default=None,
    )
    head: int | None = spec(
        "Only the first requests.", unit="requests", ge=1, default=None
    )
    seed: int | None = spec("Another seed.", unit="1", ge=0, default=None)
    engine: str | None = spec(
        "Serving engine whose defaults and step times are used; None: the plan's.",
        default=None,
    )
    admission: str | None = spec(
        "none, or a rule of early rejection by the plan's SLO; None: as planned.",
        default=None,
    )
    events: str | None = spec(
        "File of events from outside: replicas fail, come back, drain, change phase.",
        default=None,
    )

    routing: str | None = spec(
        "Routing policy; flow_shares: by the shares of the plan's KV flow. None: as "
        "planned.",
        default=None,
    )
    max_spans: int = spec(
        "Steps, or runs of steps, kept for a timeline, the first ones.",
        unit="1",
        ge=0,
        default=0,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.concurrency is not None and self.rate_rps is not None:
            raise InputError("concurrency", self.concurrency, "no rate beside it")
        if self.ramp_s is not None and self.concurrency is None:
            raise InputError("ramp", self.ramp_s, "a concurrency beside it")
        rules = ("none", *map(str, AdmissionRule))
        if self.admission is not None and self.admission not in rules:
            raise InputError("admission", self.admission, f"one of {', '.join(rules)}")
        if self.routing is not None and self.routing not in tuple(Routing):
            form = f"one of {', '.join(Routing)}"
            raise InputError("routing", self.routing, form)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replay:
    """A replay: what was simulated, what came of it, and its summary."""

    deployment: Deployment
    result: SimulationResult
    evaluation: Evaluation


def replay(
    plan: Plan,
    options: ReplayOptions | None = None,
    *,
    latency: LatencyLibrary | None = None,
) -> Evaluation:
    """Simulate a plan's deployment and summarise.

    Without options this repeats the plan's own evaluation, number by number.
    """
    return replay_whole(plan, options, latency=latency).evaluation


def replay_whole(
    plan: Plan,
    options: ReplayOptions | None = None,
    *,
    latency: LatencyLibrary | None = None,
) -> Replay:
    """The same, with the times of every request."""
    options = options or ReplayOptions()
    workload = replay_workload(plan, options)
    service = replace(plan.problem.service, workload=workload)
    # The goal plays no part, and one that needs a rate refuses a closed loop.
    problem = replace(
        plan.problem,
        services=(service,),
        objective=Objective(),
        engine=_admitting(plan.problem.engine, options.admission),
    )
    preset = None if options.engine is None else EnginePreset.load(options.engine)
    library = library_for(problem, latency)
    if preset is not None:
        library = LatencyLibrary(
            sources=(EngineSource(preset=preset), *library.sources)
        )
    planner = Planner(problem=problem, library=library)
    seed = plan.seed if options.seed is None else options.seed
    rate = options.rate_rps
    if options.trace is None and workload.concurrency is None:
        rate = rate or plan.evaluation.offered_rps
    num_requests = options.head or plan.evaluation.num_requests
    if options.trace is not None and workload.trace is not None:
        num_requests = len(workload.trace)
    requests = workload.draw(num_requests, seed=seed, rate_rps=rate)
    deployment = _routed(plan, options.routing)
    events = _events(options.events, deployment)
    if preset is not None:
        deployment = with_engine(preset, planner, deployment)
    evaluator = Evaluator(planner=planner, seed=seed)
    try:
        result = evaluator.simulated(
            deployment, requests, events=events, max_spans=options.max_spans
        )
        freely = evaluator.freely(deployment, requests, events=events)
    except InputError as error:
        if options.events is None or not error.key.startswith("events"):
            raise
        raise error.in_file(options.events) from None
    if preset is not None:
        # Every replica answers its own clients.
        clients = (workload.concurrency or 0) / len(deployment.replicas)
        result = _handled_by(preset, result, clients)
        freely = None if freely is None else _handled_by(preset, freely, clients)
    found = summarize(
        planner, deployment, result, num_events=len(events), freely=freely
    )
    found = replace(found, offered_rps=rate)
    return Replay(deployment=deployment, result=result, evaluation=found)


def _admitting(engine: EngineSettings, rule: str | None) -> EngineSettings:
    """The settings with another rule of admission."""
    if rule is None:
        return engine
    admission = None if rule == "none" else Admission(rule=AdmissionRule(rule))
    return replace(engine, admission=admission)


def _routed(plan: Plan, routing: str | None) -> Deployment:
    """The plan's deployment with another routing policy.

    Raises
    ------
    InputError
        For the shares of a flow that the plan does not have, or that is of cells.
    """
    if routing is None or routing == plan.deployment.routing:
        return plan.deployment
    wanted = Routing(routing)
    deployment = replace(plan.deployment, routing=wanted)
    deployment = replace(deployment, routes=kv_routes(plan.problem, deployment))
    if wanted is not Routing.FLOW_SHARES:
        return deployment
    if plan.kv_flow is None or is_of_cells(len(deployment.replicas)):
        form = f"a plan with a KV flow and at most {MOST_REPLICAS} replicas"
        raise InputError("routing", routing, form)
    return with_shares(deployment, plan.kv_flow.routes)


def _events(path: str | None, deployment: Deployment) -> tuple[OutsideEvent, ...]:
    """The events of a schedule file, for the replicas of `deployment`."""
    if path is None:
        return ()
    names = [replica.name for replica in deployment.replicas]
    try:
        return OutsideSchedule.load(path).of(names)
    except InputError as error:
        raise error if error.file else error.in_file(path) from None


def with_engine(
    preset: EnginePreset, planner: Planner, deployment: Deployment
) -> Deployment:
    """`deployment` with the batch limits and the KV cache of an engine's defaults.

    Raises
    ------
    InputError
        When a replica leaves no room for a KV cache.
    """
    topology = planner.problem.cluster.topology
    llm = planner.problem.service.llm
    replicas = []
    for replica in deployment.replicas:
        gpus = stage_types(topology, replica.stage_gpus)
        ranks = replica.parallelism.attention_dp
        # The budget that every GPU of a pipeline has.
        smallest = min(gpus, key=preset.batch_tokens)
        limits = preset.limits(smallest, num_ranks=ranks)
        settings = replace(
            planner.problem.engine.memory,
            max_batch_tokens=limits.max_batch_tokens // ranks,
        )
        memory = preset.memory(llm, replica.parallelism, gpus, settings)
        if not memory.fits:
            raise InputError("engine", preset.name, f"room for it ({memory.why_not})")
        replicas.append(
            replace(
                replica,
                limits=limits,
                kv_capacity_tokens=memory.max_kv_tokens,
                kv_block_tokens=preset.block_tokens,
            )
        )
    return replace(deployment, replicas=tuple(replicas))


def _handled_by(
    preset: EnginePreset, result: SimulationResult, clients: float
) -> SimulationResult:
    """The same with the time that an engine takes to handle every request.

    `clients` are those of one replica at a time; 0: an open loop, where they vary.
    """
    handling_ms = preset.fit.overheads.handling_ms(clients)
    later = {
        name: getattr(result, name) + handling_ms
        for name in ("first_token_ms", "decode_ready_ms", "finish_ms")
    }
    return replace(result, **later)


def replay_workload(plan: Plan, options: ReplayOptions) -> Workload:
    """The workload of a replay: the plan's own, that of a trace, or a closed loop."""
    own = plan.problem.service.workload
    if options.concurrency is None:
        if options.trace is None:
            return own
        return Workload.from_trace(
            options.trace, head=options.head, rate_rps=options.rate_rps
        )
    source = own.source
    if options.trace is not None:
        source = TraceSource(path=options.trace, head=options.head)
    lengths = own.lengths if options.trace is None else None
    if lengths is None and source is not None:
        lengths = EmpiricalLengths.of(source.read(), source=source)
    if lengths is None:
        raise InputError("concurrency", options.concurrency, "lengths to draw from")
    return Workload.of_lengths(
        lengths,
        arrivals=ClosedLoop(
            concurrency=options.concurrency, ramp_s=options.ramp_s or 0.0
        ),
    )
