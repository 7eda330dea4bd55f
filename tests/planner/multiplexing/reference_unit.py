"""A plain simulator of a unit, step by step: what the kernel jumps over, it walks.

Steps take the whole time of their rows (no stretch), so speeds never change.
"""

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from planner.multiplexing.unit_kernel import FULL_FRAC, MORE_FRAC
from planner.multiplexing.unit_state import World


@dataclass
class Job:
    index: int
    llm: int
    arrival: float
    prompt: int
    answer: int
    done: int = 0
    admission: int = -1
    preemptions: int = 0
    first: float = math.nan
    start: float = math.nan
    finish: float = math.nan
    is_rejected: bool = False
    is_prefilled: bool = False

    @property
    def context(self) -> int:
        return self.prompt + self.done


@dataclass
class Llm:
    quota: int
    least_quota: int
    bytes_per_token: float
    max_seqs: int
    budget: int
    waiting: deque = field(default_factory=deque)
    joining: list = field(default_factory=list)
    members: list = field(default_factory=list)
    held: int = 0
    running: int = 0
    step_end: float = math.inf
    usages: list = field(default_factory=list)

    @property
    def is_decoding(self) -> bool:
        return self.step_end < math.inf


class ReferenceUnit:
    """Takes the arrays of a world, and none of its state."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.llms = [
            Llm(
                quota=int(row["quota_tokens"]),
                least_quota=int(row["least_quota_tokens"]),
                bytes_per_token=float(row["bytes_per_token"]),
                max_seqs=int(row["max_num_seqs"]),
                budget=int(row["max_batch_tokens"]),
            )
            for row in world.llm
        ]
        self.jobs = [
            Job(
                index=i,
                llm=int(row["llm"]),
                arrival=float(row["arrival_ms"]),
                prompt=int(row["input_tokens"]),
                answer=int(row["output_tokens"]),
            )
            for i, row in enumerate(world.request)
        ]
        self.shares_space = bool(world.clock[0]["shares_space"])
        self.decodes_only = bool(world.clock[0]["decodes_only"])
        for job in self.jobs if self.decodes_only else ():
            job.done, job.first, job.is_prefilled = 1, job.arrival, True
        self.now, self.admissions = 0.0, 0
        self.next_prefill = self.next_decode = 0
        self.prefill: tuple[float, int, list[Job]] | None = None

    # Steps ---------------------------------------------------------------------------

    def decode_ms(self, llm: int) -> float:
        members = self.llms[llm].members
        row = self.world.decode_step[llm, len(members)]
        kv = sum(job.context for job in members)
        return float(row["whole0"] + row["whole1"] * kv)

    def prefill_ms(self, llm: int, prompts: list[int]) -> float:
        knots = self.world.prefill_knot[llm]
        linear = np.interp(sum(prompts), knots["tokens"], knots["linear_ms"])
        squares = sum(tokens * tokens for tokens in prompts)
        return float(linear + self.world.per_square_ms[llm] * squares)

    # Events --------------------------------------------------------------------------

    def run(self) -> None:
        arrivals = deque(self.jobs)
        adapt_ms = float(self.world.clock[0]["adapt_ms"])
        next_adapt = adapt_ms
        while True:
            times = [each.step_end for each in self.llms]
            times.append(self.prefill[0] if self.prefill else math.inf)
            times.append(arrivals[0].arrival if arrivals else math.inf)
            upcoming = min(times)
            if upcoming == math.inf:
                return
            if next_adapt < upcoming:
                self.now, next_adapt = next_adapt, next_adapt + adapt_ms
                self.adapt()
            else:
                self.now = upcoming
                for index, each in enumerate(self.llms):
                    if each.step_end <= self.now:
                        self.end_step(index)
                if self.prefill and self.prefill[0] <= self.now:
                    self.end_prefill()
                while arrivals and arrivals[0].arrival <= self.now:
                    self.arrive(arrivals.popleft())
            self.start()

    def arrive(self, job: Job) -> None:
        llm = self.llms[job.llm]
        if job.prompt + job.answer > llm.quota:
            job.is_rejected = True
        else:
            llm.waiting.append(job)

    def end_step(self, index: int) -> None:
        llm = self.llms[index]
        llm.step_end = math.inf
        for job in llm.members:
            job.done += 1
        llm.held += len(llm.members)
        for job in [job for job in llm.members if job.done == job.answer]:
            llm.members.remove(job)
            self.finish(job)

    def finish(self, job: Job) -> None:
        llm = self.llms[job.llm]
        job.finish = self.now
        llm.held -= job.prompt + job.answer
        llm.running -= 1

    def end_prefill(self) -> None:
        assert self.prefill is not None
        _, index, batch = self.prefill
        self.prefill = None
        for job in batch:
            job.done += 1
            if job.done == 1:
                job.first = self.now
            if job.done == job.answer:
                self.finish(job)
            else:
                self.llms[index].joining.append(job)

    # Scheduling ----------------------------------------------------------------------

    def can_admit(self, index: int) -> bool:
        llm = self.llms[index]
        if not llm.waiting or llm.running >= llm.max_seqs:
            return False
        needed = llm.waiting[0].context + 1
        if llm.is_decoding:
            needed += len(llm.members)
        return llm.held + needed <= llm.quota

    def start_prefill(self) -> bool:
        for i in range(len(self.llms)):
            index = (self.next_prefill + i) % len(self.llms)
            if self.can_admit(index) and not self.llms[index].waiting[0].is_prefilled:
                self.next_prefill = (index + 1) % len(self.llms)
                self.form_prefill(index)
                return True
        return False

    def form_prefill(self, index: int) -> None:
        llm = self.llms[index]
        batch: list[Job] = []
        while self.can_admit(index) and not llm.waiting[0].is_prefilled:
            job = llm.waiting[0]
            if batch and sum(b.context for b in batch) + job.context > llm.budget:
                break
            batch.append(llm.waiting.popleft())
            llm.held += job.context + 1
            llm.running += 1
            job.admission, self.admissions = self.admissions, self.admissions + 1
            if math.isnan(job.start):
                job.start = self.now
        self.note_usage(llm)
        duration = self.prefill_ms(index, [job.context for job in batch])
        self.prefill = (self.now + duration, index, batch)

    @staticmethod
    def note_usage(llm: Llm) -> None:
        is_blocked = (
            llm.waiting
            and llm.running < llm.max_seqs
            and llm.held + llm.waiting[0].context >= llm.quota
        )
        llm.usages.append(1.0 if is_blocked else llm.held / llm.quota)

    def gather(self, index: int) -> bool:
        llm = self.llms[index]
        llm.members += llm.joining
        llm.joining = []
        while llm.members and llm.held + len(llm.members) > llm.quota:
            latest = max(llm.members, key=lambda job: job.admission)
            llm.members.remove(latest)
            llm.held -= latest.context
            llm.running -= 1
            latest.preemptions += 1
            llm.waiting.appendleft(latest)
        return bool(llm.members)

    def begin_step(self, index: int) -> None:
        self.llms[index].step_end = self.now + self.decode_ms(index)

    def admit_prefilled(self, index: int) -> None:
        llm, num = self.llms[index], 0
        while llm.waiting and llm.waiting[0].is_prefilled and self.can_admit(index):
            job = llm.waiting.popleft()
            job.is_prefilled = False
            llm.held += job.context
            llm.running += 1
            job.admission, self.admissions = self.admissions, self.admissions + 1
            llm.joining.append(job)
            num += 1
        if num:
            self.note_usage(llm)

    def start(self) -> None:
        if not self.shares_space:
            for index in range(len(self.llms)) if self.decodes_only else ():
                self.admit_prefilled(index)
            self.take_turn()
            return
        is_new = True
        while is_new:
            for index, llm in enumerate(self.llms):
                if self.decodes_only:
                    self.admit_prefilled(index)
                if not llm.is_decoding and self.gather(index):
                    self.begin_step(index)
            is_new = self.prefill is None and self.start_prefill() and self.decodes_only

    def take_turn(self) -> None:
        if self.prefill or any(each.is_decoding for each in self.llms):
            return
        if self.start_prefill():
            return
        num = len(self.llms)
        for i in range(num):
            index = (self.next_decode + i) % num
            if self.gather(index):
                self.next_decode = (index + 1) % num
                self.begin_step(index)
                return
            if self.llms[index].waiting and self.start_prefill():
                return

    # Quotas --------------------------------------------------------------------------

    def usage(self, llm: Llm) -> float:
        return sum(llm.usages) / len(llm.usages) if llm.usages else llm.held / llm.quota

    def wanted(self, llm: Llm) -> float:
        if not llm.waiting or self.usage(llm) < FULL_FRAC:
            return 0.0
        return MORE_FRAC * llm.quota * llm.bytes_per_token

    def spare(self, llm: Llm) -> float:
        if self.usage(llm) >= FULL_FRAC:
            return 0.0
        kept = max(llm.least_quota, llm.held + len(llm.members))
        slack = (FULL_FRAC - self.usage(llm)) * llm.quota
        return max(0.0, min(slack, llm.quota - kept)) * llm.bytes_per_token

    def adapt(self) -> None:
        wanted = [self.wanted(each) for each in self.llms]
        spare = [self.spare(each) for each in self.llms]
        moved = min(sum(wanted), sum(spare))
        for llm, more, less in zip(self.llms, wanted, spare, strict=True):
            if moved > 0:
                tokens = more * moved / sum(wanted) - less * moved / sum(spare)
                llm.quota += math.floor(tokens / llm.bytes_per_token)
            llm.usages = []
