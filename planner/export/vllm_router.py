"""Routers of a vLLM bundle: one for each slice, in front of its replicas.

Sources
-------
vllm-project/router docs/cli_reference.md (flags and defaults of both its launchers) and
docs/model-routing/pd-disaggregation.md.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from clusters.fields import check_fields, spec
from planner.export.instances import Instance, NodePart
from planner.export.shell import Word, command_lines, comment
from planner.export.vllm_flags import Options
from planner.export.vllm_scripts import PREAMBLE, host, script
from planner.plan import Plan
from planner.simulator.system import Phase, Routing

FIRST_ROUTER_PORT = 30000
FIRST_METRICS_PORT = 28000


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """A router with its place and the replicas behind it."""

    script_name: str = spec("Its file.")
    members: tuple[Instance, ...] = spec("Replicas behind it.")
    http_port: int = spec("Port of its API.", unit="1", ge=1)
    metrics_port: int = spec("Port of its Prometheus metrics.", unit="1", ge=1)
    share_frac: float | None = spec(
        "Share of all requests that goes to it; None: not planned.",
        unit="1",
        ge=0,
        le=1,
        default=None,
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def place(self) -> NodePart:
        """Where it runs: the first node of its first replica."""
        return self.members[0].head


def routers_of(
    plan: Plan, instances: Sequence[Instance], *, first: int = 0
) -> tuple[Router, ...]:
    """A router for each slice, or for each route in use where a plan goes by shares.

    Those on one node get different ports, from `first`.
    """
    groups = _groups(plan, instances)
    on_node: Counter[int] = Counter()
    routers = []
    for index, (members, share_frac) in enumerate(groups):
        node = members[0].head.node
        routers.append(
            Router(
                script_name=f"router-{index}.sh" if len(groups) > 1 else "router.sh",
                members=members,
                http_port=FIRST_ROUTER_PORT + first + on_node[node],
                metrics_port=FIRST_METRICS_PORT + first + on_node[node],
                share_frac=share_frac,
            )
        )
        on_node[node] += 1
    return tuple(routers)


def _groups(
    plan: Plan, instances: Sequence[Instance]
) -> list[tuple[tuple[Instance, ...], float | None]]:
    """Replicas behind each router, and its share of the requests if one is planned."""
    if plan.deployment.routing is Routing.FLOW_SHARES:
        of = {instance.replica.name: instance for instance in instances}
        return [
            ((of[route.source], of[route.target]), route.share_frac)
            for route in plan.deployment.routes
            if route.share_frac
        ]
    slices = sorted({instance.replica.slice for instance in instances})
    return [
        (tuple(each for each in instances if each.replica.slice == index), None)
        for index in slices
    ]


def router_script(plan: Plan, router: Router, stamp: str) -> str:
    """Script that starts a router and stays with it."""
    return script(
        comment(f"Router of {len(router.members)} replicas"),
        comment(stamp),
        *PREAMBLE,
        "",
        command_lines(
            ("exec", "vllm-router"),
            [
                *_worker_options(plan, router.members),
                ("--host", "0.0.0.0"),
                ("--port", str(router.http_port)),
                ("--prometheus-port", str(router.metrics_port)),
                ("--worker-startup-timeout-secs", "1800"),
            ],
        ),
    )


def _worker_options(plan: Plan, members: Sequence[Instance]) -> Options:
    """The replicas behind a router, and how it chooses among them."""
    routing = plan.deployment.routing
    if not plan.deployment.is_disaggregated:
        return [
            ("--worker-urls", *(_url(each) for each in members)),
            ("--policy", _policy(routing, members)),
            # Also how often power_of_two asks for loads; the default is 30 s.
            ("--worker-startup-check-interval", "1"),
        ]
    options: Options = [("--vllm-pd-disaggregation",), ("--kv-connector", "nixl")]
    for phase in (Phase.PREFILL, Phase.DECODE):
        workers = [each for each in members if each.replica.phase is phase]
        options += [(f"--{phase}", _url(each)) for each in workers]
        options.append((f"--{phase}-policy", _policy(routing, workers)))
    return options


def _policy(routing: Routing, workers: Sequence[Instance]) -> str:
    """The router's nearest policy; power_of_two wants at least two workers."""
    if routing is Routing.RANDOM:
        return "random"
    by_load = routing is not Routing.ROUND_ROBIN and len(workers) > 1
    return "power_of_two" if by_load else "round_robin"


def _url(instance: Instance) -> Word:
    return ("http://", host(instance.head), f":{instance.http_port}")
