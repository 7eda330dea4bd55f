"""Planned units, simulated request by request under the contention law.

    python benchmarks/accuracy/muxserve_units.py [--alpha 2.1] [--slo medium]
        [--span-s 60] [--format json]

The plan of 19 LLMs on 32 A100s (`muxserve_sharing.py`), shared and dedicated. Every
unit is simulated with Poisson arrivals at the load it was given: the planner's closed
forms against the same step times in their order. Figures: requests per second within
both limits of their SLO, and how many LLMs of units meet it.

A plain simulator, apart from the product's kernel:

* side by side: prompts are prefilled in order of arrival, up to four of one LLM in a
  step; each LLM decodes whatever it has, step after step; steps that run at the same
  time slow each other down as `together_ms` says, from one change to the next;
* in turns: prompts first, then one decode step of each LLM in turn, all on all SMs;
* a prompt starts when its LLM has room for it in its KV quota.
"""

import argparse
import json
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from muxserve_sharing import NINETEEN, SCALES, TOTAL_RPS, library, shared_problem

from clusters.units import MS_PER_S
from models.latency.contention import Job, SmSharing, StepDemand, together_ms
from planner.multiplexing.llm_costs import CostBook
from planner.multiplexing.problem import LlmDemand, SharedProblem
from planner.multiplexing.solve import SharingMethod, place_services
from planner.multiplexing.unit import LlmUnit, UnitMember
from planner.workload.popularity import power_law_rates

MOST_PROMPTS = 4
PREFILL = -1
"""Name of the prefill job; decode jobs are named by the index of their LLM."""


@dataclass
class Request:
    """A request on its way."""

    arrival_ms: float
    llm: int
    steps_left: float
    first_token_ms: float = 0.0


@dataclass
class Member:
    """One LLM of a unit while it runs."""

    demand: LlmDemand
    planned: UnitMember
    running: list[Request] = field(default_factory=list)
    entering: list[Request] = field(default_factory=list)
    good: int = 0
    done: int = 0
    resident: int = 0

    @property
    def has_room(self) -> bool:
        """Whether its KV quota holds one more request."""
        tokens = (self.resident + 1) * self.demand.context_tokens
        return tokens <= self.planned.kv_quota_tokens

    def finish(self, request: Request, now_ms: float) -> None:
        """Count a request and whether it kept its limits."""
        slo = self.demand.slo
        decode_ms = now_ms - request.first_token_ms
        ttft_ms = request.first_token_ms - request.arrival_ms
        tpot_ms = decode_ms / max(1.0, self.demand.decode_steps)
        self.done += 1
        self.resident -= 1
        self.good += ttft_ms <= (slo.ttft_ms or ttft_ms) and tpot_ms <= (
            slo.tpot_ms or tpot_ms
        )


class UnitRun:
    """One unit in time: jobs in progress, each with the part that is left of it."""

    def __init__(self, unit: LlmUnit, book: CostBook) -> None:
        index = {demand.name: i for i, demand in enumerate(book.demands)}
        self.unit = unit
        self.members = [Member(book.demands[index[m.service]], m) for m in unit.members]
        self.costs = [book.costs(index[m.service], unit.mesh) for m in unit.members]
        self.queue: deque[Request] = deque()
        self.left: dict[int, float] = {}
        self.prompts: list[Request] = []
        self.turn = 0
        self._times: dict[tuple[tuple[int, int, int], ...], dict[int, float]] = {}

    def run(self, requests: list[Request]) -> None:
        """Serve requests until none is left."""
        now, coming = 0.0, deque(requests)
        while coming or self.queue or self.left or self._has_decodes:
            self._start()
            times = self._step_ms()
            end_ms = min((self.left[j] * times[j] for j in self.left), default=np.inf)
            wait_ms = coming[0].arrival_ms - now if coming else np.inf
            passed = min(end_ms, wait_ms)
            now += passed
            for job in self.left:
                self.left[job] -= passed / times[job]
            if wait_ms <= end_ms:
                self.queue.append(coming.popleft())
                continue
            for job in [j for j in self.left if self.left[j] <= 1e-9]:
                del self.left[job]
                self._end(job, now)

    @property
    def _has_decodes(self) -> bool:
        return any(m.running or m.entering for m in self.members)

    def _start(self) -> None:
        """Start whatever may run now."""
        in_turns = self.unit.cycle_ms is not None
        if in_turns and self.left:
            return
        if PREFILL not in self.left and self._take_prompts():
            self.left[PREFILL] = 1.0
            if in_turns:
                return
        order = [(self.turn + i) % len(self.members) for i in range(len(self.members))]
        for llm in order:
            member = self.members[llm]
            if llm in self.left or not (member.running or member.entering):
                continue
            member.running += member.entering
            member.entering = []
            self.left[llm] = 1.0
            if in_turns:
                self.turn = llm + 1
                return

    def _take_prompts(self) -> bool:
        """The first prompts of one LLM that has room, in order of arrival."""
        first = next((r for r in self.queue if self.members[r.llm].has_room), None)
        if first is None:
            return False
        self.prompts = []
        for request in [r for r in self.queue if r.llm == first.llm]:
            member = self.members[request.llm]
            if len(self.prompts) == MOST_PROMPTS or not member.has_room:
                break
            member.resident += 1
            self.prompts.append(request)
            self.queue.remove(request)
        return True

    def _end(self, job: int, now_ms: float) -> None:
        if job == PREFILL:
            for request in self.prompts:
                request.first_token_ms = now_ms
                self.members[request.llm].entering.append(request)
            return
        member = self.members[job]
        for request in member.running:
            request.steps_left -= 1
            if request.steps_left <= 0:
                member.finish(request, now_ms)
        member.running = [r for r in member.running if r.steps_left > 0]

    def _step_ms(self) -> dict[int, float]:
        """How long each job in progress takes beside the others."""
        key = tuple(sorted((job, *self._size(job)) for job in self.left))
        if key not in self._times:
            jobs = [self._job(job, llm, batch) for job, llm, batch in key]
            times = together_ms(jobs, SmSharing.published())
            self._times[key] = {k[0]: t for k, t in zip(key, times, strict=True)}
        return self._times[key]

    def _size(self, job: int) -> tuple[int, int]:
        if job == PREFILL:
            return self.prompts[0].llm, len(self.prompts)
        return job, len(self.members[job].running)

    def _job(self, job: int, llm: int, batch: int) -> Job:
        cost = self.costs[llm]
        if job == PREFILL:
            share = self.unit.prefill_share_frac
            return Job(sm_share_frac=share, step=cost.prefill[batch])
        share = self.members[llm].planned.decode_share_frac
        step = between(batch, cost.batches, cost.decodes)
        return Job(sm_share_frac=share, step=step)


def arrivals(unit: LlmUnit, book: CostBook, span_s: float, seed: int) -> list[Request]:
    """Poisson requests of the load that each LLM of a unit was given."""
    index = {demand.name: i for i, demand in enumerate(book.demands)}
    found = []
    for llm, member in enumerate(unit.members):
        rng = np.random.default_rng((seed, llm))
        steps = book.demands[index[member.service]].decode_steps
        num = rng.poisson(member.served_rps * span_s)
        for arrival_ms in rng.uniform(0.0, span_s * MS_PER_S, size=num):
            found.append(Request(float(arrival_ms), llm, steps))
    return sorted(found, key=lambda request: request.arrival_ms)


def between(
    batch: int, batches: tuple[int, ...], steps: tuple[StepDemand, ...]
) -> StepDemand:
    """The step of a batch between those worked out."""
    names = StepDemand.__dataclass_fields__
    return StepDemand(
        **{
            name: float(np.interp(batch, batches, [getattr(s, name) for s in steps]))
            for name in names
        }
    )


def problem_of(alpha: float, slo: str) -> SharedProblem:
    """The problem of `muxserve_sharing.py`."""
    rates = power_law_rates(len(NINETEEN), alpha=alpha, busiest_rps=1.0)
    scaled = tuple(rate * TOTAL_RPS / sum(rates) for rate in rates)
    return shared_problem(NINETEEN, scaled, SCALES[slo], 4)


def simulated(
    problem: SharedProblem, method: SharingMethod, span_s: float
) -> dict[str, Any]:
    """A plan and what its units serve within their SLOs."""
    plan = place_services(problem, library(), method=method)
    book = CostBook(
        problem,
        library(),
        sharing=SmSharing.published(),
        shares=(1.0,),
        prompts=range(1, MOST_PROMPTS + 1),
    )
    good_rps, num_met, rows = 0.0, 0, []
    for seed, each in enumerate(plan.placed.units if plan.placed else ()):
        run = UnitRun(each.unit, book)
        run.run(arrivals(each.unit, book, span_s, seed))
        for member in run.members:
            if member.done == 0:
                continue  # none came in the span: nothing to judge
            share = member.good / member.done
            is_met = share >= member.demand.slo.attainment_frac
            rows.append((member.planned.service, share))
            num_met += is_met
            good_rps += member.planned.served_rps * share
    return {
        "planned_rps": sum(
            m.served_rps for e in plan.placed.units for m in e.unit.members
        ),
        "within_slo_rps": good_rps,
        "num_members": len(rows),
        "num_members_met": num_met,
        "worst_attainment_frac": min((share for _, share in rows), default=None),
    }


def main() -> int:
    """Plan, simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alpha", type=float, nargs="+", default=[0.7, 2.1])
    parser.add_argument("--slo", choices=tuple(SCALES), default="medium")
    parser.add_argument("--span-s", type=float, default=60.0)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    args = parser.parse_args()
    methods = (SharingMethod.EXACT, SharingMethod.SPATIAL, SharingMethod.TEMPORAL)
    rows = []
    for alpha in args.alpha:
        problem = problem_of(alpha, args.slo)
        found = {str(m): simulated(problem, m, args.span_s) for m in methods}
        exact, spatial = (found[m]["within_slo_rps"] for m in ("exact", "spatial"))
        rows.append(
            {
                "alpha": alpha,
                "slo": args.slo,
                "methods": found,
                "exact_over_spatial": exact / spatial,
            }
        )
    if args.format == "json":
        print(json.dumps({"cases": rows}, indent=2))
        return 0
    for row in rows:
        print(
            f"alpha {row['alpha']}, exact over spatial {row['exact_over_spatial']:.2f}"
        )
        for name, each in row["methods"].items():
            print(
                f"  {name:9} planned {each['planned_rps']:.1f}, within SLO "
                f"{each['within_slo_rps']:.1f} requests/s, {each['num_members_met']} "
                f"of {each['num_members']} LLMs of units meet it, the worst "
                f"{each['worst_attainment_frac']:.0%}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
