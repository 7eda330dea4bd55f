"""A slow, plain simulator of the same serving system, to check the compiled one.

Every decode step of every request is an event, every block is counted by looking at
all requests, and queues are lists. No closed form, no numba, nothing shared with
`planner/simulator` but the description of the system.

Rules
    At one instant: decode steps end, then prefill steps, then transfers, then requests
    arrive; equal events in the order they were started. Then replicas, lowest index
    first, start what they can: pulls in order, then stages from the last to the first,
    prompts before decodes.
"""

import heapq
import math
from itertools import count

from planner.simulator.system import Phase, Routing, ServingSystem
from planner.workload.requests import Requests
from tests.planner.simulator.reference_chunks import (
    ChunkedSteps,
    captured,
    idle_partials,
)
from tests.planner.simulator.reference_routing import Routers, take_window
from tests.planner.simulator.reference_state import (
    DECODE_END,
    PREFILL_END,
    Job,
    ReplicaState,
)
from tests.planner.simulator.reference_transfers import Transfers


class ReferenceSimulator(ChunkedSteps, Transfers, Routers):
    """Serve `requests` on `system`; `jobs` have the times when `run` returns."""

    def __init__(
        self, system: ServingSystem, requests: Requests, clients: int | None = None
    ) -> None:
        rows = zip(
            requests.arrival_ms.tolist(),
            requests.input_tokens.tolist(),
            requests.output_tokens.tolist(),
            strict=True,
        )
        self.jobs = [Job(*row) for row in rows]
        self.clients, self.num_open = clients, len(self.jobs)
        for number, job in enumerate(self.jobs if clients else []):
            job.arrival = 0.0 if number < clients else math.inf
        self.system = system
        self.replicas = [ReplicaState(i, r) for i, r in enumerate(system.replicas)]
        self.prefills = [r for r in self.replicas if r.given.phase is not Phase.DECODE]
        self.decoders = [r for r in self.replicas if r.given.phase is Phase.DECODE]
        self.sends = bool(self.decoders)
        self.routes = {(r.source, r.target): r for r in system.routes}
        self.edge_free = {s.edge: 0.0 for r in system.routes for s in r.edges}
        self.prepare_routing(system, requests)
        self.admissions, self.sequence = count(), count()
        self.events: list[tuple] = []
        self.now = 0.0
        self.num_preemptions = 0

    def run(self) -> None:
        arriving = 0
        while True:
            event = self.events[0][0] if self.events else math.inf
            more = arriving < self.num_open
            arrival = self.jobs[arriving].arrival if more else math.inf
            upcoming = min(event, arrival)
            if upcoming > self.now and self.start_all():
                continue
            if upcoming == math.inf:
                return
            self.now = max(self.now, upcoming)
            if event <= arrival:
                _, _, _, action, arguments = heapq.heappop(self.events)
                action(*arguments)
            else:
                arriving += 1
                self.arrive(self.jobs[arriving - 1])

    def at(self, time: float, priority: int, action, *arguments) -> None:
        entry = (time, priority, next(self.sequence), action, arguments)
        heapq.heappush(self.events, entry)

    # One request: it arrives, gets its first token, moves to decode, ends.

    def arrive(self, job: Job) -> None:
        has_pools = self.routing is Routing.SPLITWISE
        if not self.prefills and not has_pools:
            self.first_token(job, None)
            return
        if has_pools:
            replica, job.target = self.choose_pair(job)
        else:
            replica = self.choose(Phase.PREFILL, job)
        if self.is_too_long(job, replica):
            self.end(job, is_rejected=True)
            return
        job.prefiller = replica
        replica.in_system.add(job)
        replica.prompts.append(job)

    def first_token(self, job: Job, replica: ReplicaState | None) -> None:
        job.first_token, job.done = self.now, 1
        job.token_times.append(self.now)
        if replica is not None and replica.keeps(job):
            self.enter_decode(job, replica)
            return
        job.source = replica
        if replica is not None:
            replica.in_system.remove(job)
        if not self.sends or job.output == 1:
            if self.is_streamed(job):
                self.drop_target(job)
            self.drop_source(job)
            self.end(job)
            return
        if self.is_streamed(job):
            if not math.isnan(job.transfer_start):
                self.send_layers(job)
            return
        self.send_to_decode(job)

    def is_streamed(self, job: Job) -> bool:
        """Whether a target fetches the prompt layer by layer."""
        return job.target is not None and not math.isnan(job.begun)

    def send_to_decode(self, job: Job) -> None:
        slice = None if job.source is None else job.source.given.slice
        target = job.target or self.choose(Phase.DECODE, job, slice)
        if target.blocks_for(job, job.input + job.output) > target.capacity:
            self.drop_source(job)
            self.end(job, is_rejected=True)
            return
        job.target = target
        target.in_system.add(job)
        target.pulls.append(job)

    def end_transfer(self, job: Job, target: ReplicaState) -> None:
        self.drop_source(job)
        self.enter_decode(job, target)

    def enter_decode(self, job: Job, replica: ReplicaState) -> None:
        if math.isnan(job.decode_ready):
            job.decode_ready = self.now
        if job.done == job.output:
            self.leave(job, replica)
        else:
            replica.joins.append(job)
            job.is_decoding = True

    def leave(self, job: Job, replica: ReplicaState) -> None:
        if not replica.is_request_level:
            self.forget(job, replica)
            return
        replica.ended.append(job)
        if len(replica.ended) == len(replica.resident):
            for ended in replica.ended:
                self.forget(ended, replica)
            replica.ended = []

    def forget(self, job: Job, replica: ReplicaState) -> None:
        del replica.held[job]
        replica.resident.remove(job)
        replica.in_system.remove(job)
        self.end(job)

    def end(self, job: Job, is_rejected: bool = False) -> None:
        job.is_rejected = is_rejected
        if not is_rejected:
            job.finish = self.now
        if self.clients:
            waiting = (j for j in self.jobs if j.arrival == math.inf)
            freed = next(waiting, None)
            if freed is not None:
                freed.arrival = self.now

    # Starting work.

    def start_all(self) -> bool:
        """Start what can be started; whether anything was."""
        anything = False
        replica = 0
        while replica < len(self.replicas):
            if self.start(self.replicas[replica]):
                anything, replica = True, 0
                if self.events and self.events[0][0] <= self.now:
                    break  # work that takes no time ends before others start
            else:
                replica += 1
        return anything

    def start(self, rep: ReplicaState) -> bool:
        started = False
        take_window(rep)
        while rep.pulls and not any(j.done for j in rep.prompts) and self.pull(rep):
            started = True
        for stage in reversed(range(len(rep.busy))):
            if not rep.busy[stage]:
                started |= self.start_stage(rep, stage)
        return started

    def start_stage(self, rep: ReplicaState, stage: int) -> bool:
        if rep.is_chunked:
            waiting = rep.waiting[stage]
            step = self.form_step(rep) if stage == 0 else waiting and waiting.pop(0)
            if step:
                end = self.now + step.duration(rep, stage)
                priority = PREFILL_END if step.chunks else DECODE_END
                self.at(end, priority, self.end_step, rep, stage, step)
            rep.busy[stage] = bool(step)
            return rep.busy[stage]
        if stage == 0:
            batch = self.form_batch(rep)
            group = [] if batch else self.form_group(rep)
        else:
            batch = rep.batches[stage].pop(0) if rep.batches[stage] else []
            group = [] if batch else self.next_group(rep, stage)
        table = rep.given.stages[stage]
        if batch:
            end = self.now + self.prefill_duration(rep, table, batch)
            self.at(end, PREFILL_END, self.end_prefill, rep, stage, batch)
        elif group:
            computed = group + (rep.ended if rep.is_padded else [])
            attended = sum(job.context + job.padding for job in computed)
            batch_size = captured(rep.given.limits, len(computed))
            duration = table.decode_step_ms(batch_size, attended)
            end = self.now + duration
            self.at(end, DECODE_END, self.end_decode, rep, stage, group)
        rep.busy[stage] = bool(batch or group)
        return rep.busy[stage]

    def prefill_duration(self, rep: ReplicaState, table, batch: list[Job]) -> float:
        lengths = [job.uncached for job in batch]
        if rep.is_padded:
            lengths = [max(lengths)] * len(lengths)
        return table.prefill_step_ms(lengths, [job.cached for job in batch])

    def find_prefix(self, rep: ReplicaState, job: Job | None) -> None:
        """How much of a waiting prompt is cached: nothing, without a prefix cache."""

    def form_batch(self, rep: ReplicaState) -> list[Job]:
        batch: list[Job] = []
        limits = rep.given.limits
        if rep.is_request_level and rep.resident:
            return []
        if rep.num_flying >= len(rep.busy) and self.shares_pipeline(rep):
            return []
        most = limits.max_step_prompts or limits.max_num_seqs
        while rep.prompts and len(batch) < most and rep.has_place():
            job = rep.prompts[0]
            self.find_prefix(rep, job)
            tokens = sum(j.uncached for j in batch) + job.uncached
            blocks = rep.blocks_for(job, job.context + rep.keeps(job))
            if rep.is_padded:
                longest = max(j.context for j in [*batch, job])
                tokens = (len(batch) + 1) * longest
            if batch and tokens > limits.max_batch_tokens:
                break
            if not rep.can_admit(blocks):
                break
            batch.append(job)
            self.admit(rep)
        rep.num_flying += bool(batch) and self.shares_pipeline(rep)
        return batch

    def shares_pipeline(self, rep: ReplicaState) -> bool:
        """Whether prompts count among the batches under way, one a stage at most."""
        return rep.decodes and not rep.cap and not rep.is_request_level

    def admit(self, rep: ReplicaState) -> None:
        """Blocks for the whole context, and a place among those that decode."""
        job = rep.prompts.pop(0)
        rep.num_sorted = max(0, rep.num_sorted - 1)
        take_window(rep)
        rep.held[job] = rep.blocks_for(job, job.context + rep.keeps(job))
        if rep.keeps(job):
            rep.resident.add(job)
        job.admission = next(self.admissions)
        if job.done == 0 and math.isnan(job.prefill_start):
            job.prefill_start = self.now
        self.begin_stream(job, rep)

    def form_group(self, rep: ReplicaState) -> list[Job]:
        if rep.cap:
            return self.head_under_cap(rep, rep.joins)
        if rep.num_flying >= len(rep.busy):
            return []
        group = self.next_micro_batch(rep)
        rep.num_flying += bool(group)
        return group

    def next_micro_batch(self, rep: ReplicaState) -> list[Job]:
        """Who has waited longest goes on together, and newcomers up to the places."""
        group: list[Job] = []
        while rep.idle and not group:
            group = self.cover(rep, rep.idle.pop(0))
        places = max(0, rep.max_micro_batch - len(group))
        group, rep.joins = group + rep.joins[:places], rep.joins[places:]
        return group

    def next_group(self, rep: ReplicaState, stage: int) -> list[Job]:
        if not rep.groups[stage]:
            return []
        if not rep.cap:
            return rep.groups[stage].pop(0)
        waiting = [job for group in rep.groups[stage] for job in group]
        group = self.head_under_cap(rep, waiting)
        rep.groups[stage] = [waiting] if waiting else []
        return group

    def head_under_cap(self, rep: ReplicaState, waiting: list[Job]) -> list[Job]:
        group: list[Job] = []
        while waiting:
            attended = sum(job.context for job in group) + waiting[0].context
            if group and attended > rep.cap:
                break
            group.append(waiting.pop(0))
        return group

    def cover(self, rep: ReplicaState, group: list[Job]) -> list[Job]:
        """Blocks for one more step of `group`; whoever came last gives way."""
        group = list(group)
        while group:
            needed = {job: rep.blocks_for(job, job.context) for job in group}
            if sum(needed[job] - rep.held[job] for job in group) <= rep.free:
                rep.held.update(needed)
                break
            last = max(group + idle_partials(rep), key=lambda job: job.admission)
            if last in group:
                group.remove(last)
            self.preempt(rep, last)
        return group

    def preempt(self, rep: ReplicaState, job: Job) -> None:
        del rep.held[job]
        rep.resident.discard(job)
        job.is_decoding = False
        rep.begun.pop(job, None)
        rep.prompts.insert(0, job)
        rep.num_sorted += rep.given.limits.prompt_order != "fcfs"
        self.num_preemptions += 1

    # Ending work.

    def end_prefill(self, rep: ReplicaState, stage: int, batch: list[Job]) -> None:
        rep.busy[stage] = False
        if stage + 1 < len(rep.busy):
            rep.batches[stage + 1].append(batch)
            return
        rep.num_flying -= self.shares_pipeline(rep)
        self.have_token(batch, rep)

    def have_token(self, batch: list[Job], rep: ReplicaState) -> None:
        """The contexts of `batch` are computed: each has one more token."""
        for job in batch:
            if job.done == 0:
                self.first_token(job, rep)
            else:
                job.done += 1
                job.token_times.append(self.now)
                self.enter_decode(job, rep)

    def end_decode(self, rep: ReplicaState, stage: int, group: list[Job]) -> None:
        rep.busy[stage] = False
        if stage + 1 < len(rep.busy):
            rep.groups[stage + 1].append(group)
            return
        for job in rep.ended:
            job.padding += 1
        for job in group:
            job.done += 1
            job.token_times.append(self.now)
            if job.done == job.output:
                self.leave(job, rep)
        group = [job for job in group if job.done < job.output]
        if rep.cap:
            self.take_turns(rep, group)
            return
        rep.num_flying -= 1
        self.meet(rep, group)

    def meet(self, rep: ReplicaState, group: list[Job]) -> None:
        """Those with tokens to go wait for the next step."""
        if group:
            rep.idle.append(group)

    def take_turns(self, rep: ReplicaState, group: list[Job]) -> None:
        """Survivors of a capped step queue again; who finds no block is preempted."""
        for job in group:
            if rep.blocks(job.context) - rep.held[job] > rep.free:
                self.preempt(rep, job)
            else:
                rep.held[job] = rep.blocks(job.context)
                rep.joins.append(job)
