"""The plain reference simulator with events from outside.

A failure looks at who is where, and at all pending events; a replica that has failed or
changed its phase is a new one in the place of the old.
"""

import heapq
import math
from dataclasses import replace

from planner.simulator.outside_schedule import OutsideEvent, OutsideKind, in_order
from planner.simulator.system import Phase, Routing, ServingSystem
from planner.workload.requests import Requests
from tests.planner.simulator.reference import ReferenceSimulator
from tests.planner.simulator.reference_state import OUTSIDE, SERVES, Job, ReplicaState

ENDS = ("end_prefill", "end_decode", "end_step")

TO_BE_CHOSEN = object()
"""Target of a prompt of Splitwise's pools of which the token machine has failed."""


class ReferenceWithEvents(ReferenceSimulator):
    """Serve `requests` on `system` while `events` happen to its replicas."""

    def __init__(
        self,
        system: ServingSystem,
        requests: Requests,
        events: tuple[OutsideEvent, ...],
    ) -> None:
        super().__init__(system, requests)
        self.routes |= {(r.source, r.target): r for r in system.switch_routes}
        self.edge_free |= {s.edge: 0.0 for r in system.switch_routes for s in r.edges}
        self.has_pools = self.routing is Routing.SPLITWISE
        self.flips: dict[int, float] = {}
        self.place = {True: 0, False: 0}
        self.waiting: list[Job] = []
        self.unsent: list[Job] = []
        self.num_recomputed = self.num_recomputed_tokens = self.num_rerouted = 0
        for event in in_order(events):
            self.at(event.at_ms, OUTSIDE, self.happen, event)
            if event.kind is OutsideKind.SCALE_UP:
                self.withdraw(event.replica)

    # Who serves.

    def listed(self, rep: ReplicaState) -> list[ReplicaState]:
        return self.decoders if rep.given.phase is Phase.DECODE else self.prefills

    def happen(self, event: OutsideEvent) -> None:
        if event.kind in (OutsideKind.RECOVER, OutsideKind.SCALE_UP):
            self.at(self.now + event.takes_ms, SERVES, self.serve, event.replica)
            return
        self.withdraw(event.replica)
        if event.kind is OutsideKind.FLIP:
            self.flips[event.replica] = event.takes_ms
        if event.kind is OutsideKind.FAIL:
            self.fail(self.replicas[event.replica])

    def withdraw(self, index: int) -> None:
        self.flips.pop(index, None)
        self.drop_events(lambda action, given: (action, given) == ("serve", (index,)))
        rep = self.replicas[index]
        listed = self.listed(rep)
        if rep in listed:
            listed.remove(rep)
            is_decode = listed is self.decoders
            if self.place[is_decode] >= len(listed):
                self.place[is_decode] = 0

    def serve(self, index: int) -> None:
        listed = self.listed(self.replicas[index])
        listed.append(self.replicas[index])
        listed.sort(key=lambda rep: rep.index)
        while self.waiting and self.takes_prompts():
            self.arrive(self.waiting.pop(0))
        unsent, self.unsent = self.unsent, []
        for job in unsent:
            self.send_to_decode(job)

    def start(self, rep: ReplicaState) -> bool:
        started = super().start(rep)
        is_empty = not (rep.held or rep.prompts or rep.pulls or self.used(rep))
        if rep.index not in self.flips or not is_empty:
            return started
        self.renew(rep, {Phase.DECODE: Phase.PREFILL, Phase.PREFILL: Phase.DECODE})
        due = self.now + self.flips.pop(rep.index)
        self.at(due, SERVES, self.serve, rep.index)
        return True

    def renew(self, rep: ReplicaState, change: dict[Phase, Phase]) -> None:
        phase = change.get(rep.given.phase, rep.given.phase)
        given = replace(rep.given, phase=phase)
        self.replicas[rep.index] = ReplicaState(rep.index, given)

    # Where requests go.

    def choose(
        self, phase: Phase, job: Job, slice: int | None = None
    ) -> ReplicaState | None:
        is_decode = phase is Phase.DECODE
        everyone = self.decoders if is_decode else self.prefills
        fitting = [r for r in everyone if slice in (None, r.given.slice)]
        if self.routing is not Routing.ROUND_ROBIN:
            return super().choose(phase, job, slice) if fitting else None
        for _ in everyone:
            chosen = everyone[self.place[is_decode]]
            self.place[is_decode] = (self.place[is_decode] + 1) % len(everyone)
            if chosen in fitting:
                return chosen
        return None

    def takes_prompts(self) -> bool:
        return bool(self.prefills or (self.has_pools and self.decoders))

    def arrive(self, job: Job) -> None:
        if self.takes_prompts():
            super().arrive(job)
        else:
            self.waiting.append(job)

    def begin_stream(self, job: Job, replica: ReplicaState) -> None:
        if any(r.given.slice == replica.given.slice for r in self.decoders):
            super().begin_stream(job, replica)

    def send_to_decode(self, job: Job) -> None:
        if self.has_pools:
            self.send_to_promised(job)
        elif any(r.given.slice == job.source.given.slice for r in self.decoders):
            super().send_to_decode(job)
        else:
            self.unsent.append(job)

    def send_to_promised(self, job: Job) -> None:
        if job.target is TO_BE_CHOSEN:
            target = self.other_target(job)
            total = job.input + job.output
            if target is None or target.blocks(total) > target.capacity:
                self.drop_source(job)
                self.start_again(job)
                return
            job.target = target
        super().send_to_decode(job)

    def other_target(self, job: Job) -> ReplicaState | None:
        """With most room where it fits best; nobody is sent to in a circle."""
        near = [
            r
            for r in (*self.prefills, *self.decoders)
            if r.given.slice == job.source.given.slice and r is not job.source
        ]
        sends_freely = job.source.given.phase is Phase.PREFILL
        sends_freely &= not self.is_mixed(job.source)
        mixed = [r for r in near if self.is_mixed(r)]
        prompt = [r for r in near if r.given.phase is Phase.PREFILL and r not in mixed]
        token = [r for r in near if r.given.phase is Phase.DECODE and r not in mixed]
        best = []
        for pool in (token, mixed, prompt) if sends_freely else (token,):
            pool.sort(key=lambda r: r.index)
            best += [min(pool, key=self.used)] if pool else []
        roomy = [r for r in best if self.has_room(r, job)]
        return next(iter(roomy), None) or min(best, key=self.promised, default=None)

    def first_token(self, job: Job, replica: ReplicaState | None) -> None:
        before = job.first_token
        super().first_token(job, replica)
        if not math.isnan(before):
            job.first_token = before

    # What is lost.

    def drop_events(self, is_dropped) -> None:
        self.events = [e for e in self.events if not is_dropped(e[3].__name__, e[4])]
        heapq.heapify(self.events)

    def fail(self, rep: ReplicaState) -> None:
        for job in rep.ended:
            self.end(job)
        mine = (rep.in_system | set(rep.held)) - set(rep.ended)
        aimed = {j for j in self.decoding_at(rep) if j.prefiller is not rep}
        streams = {j for j in aimed if math.isnan(j.decode_ready) and j.done == 0}
        unsent = set(rep.pulls) - streams
        lost = mine - streams - unsent
        for job in streams | unsent:
            job.target = TO_BE_CHOSEN if self.has_pools else None
            job.transfer_start = math.nan
        for other in self.replicas:
            if other is not rep:
                other.in_system -= lost
                other.resident -= lost
                for job in [j for j in self.jobs if j in lost and j in other.held]:
                    del other.held[job]
                    self.give_back(job, other)
                other.pulls = [job for job in other.pulls if job not in lost]
        self.unsent = [job for job in self.unsent if job not in lost]
        self.drop_events(
            lambda action, given: (
                (action in ENDS and given[0] is rep)
                or (action == "end_transfer" and given[0] in lost)
            )
        )
        self.renew(rep, {})
        for job in lost:
            job.source = job.target = job.prefiller = None
        for job in self.jobs:
            if job in lost:
                self.start_again(job)
        for job in self.jobs:
            if job in unsent:
                self.send_to_decode(job)

    def give_back(self, job: Job, rep: ReplicaState) -> None:
        """The blocks of a lost job on a replica that has not failed are free."""

    def start_again(self, job: Job) -> None:
        if job.admission < 0:
            self.num_rerouted += 1
        else:
            self.num_recomputed += 1
            self.num_recomputed_tokens += job.context
        job.streamed += job.done
        job.input, job.output, job.done = job.context, job.output - job.done, 0
        job.admission, job.source, job.target, job.prefiller = -1, None, None, None
        job.has_left = job.is_decoding = False
        job.transfer_start = job.decode_ready = math.nan
        self.arrive(job)
