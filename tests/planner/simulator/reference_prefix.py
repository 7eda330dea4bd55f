"""Prefix caches, expected TTFT, early rejection and sessions, in plain Python.

A cache is a dict in order of use; what the router expects is computed from lists. The
compiled simulator must agree request by request.
"""

import heapq
import math
from collections.abc import Callable

from models.latency.step_table import StepTable
from planner.simulator.prefix_settings import AdmissionRule, CacheScope, PrefixCache
from planner.simulator.system import Phase, Routing, ServingSystem
from planner.workload.requests import Requests
from tests.planner.simulator.reference import ReferenceSimulator
from tests.planner.simulator.reference_chunks import Step
from tests.planner.simulator.reference_state import Job, ReplicaState

TURN_DUE = 5


class LruCache:
    """Blocks in order of use, the least recent first."""

    def __init__(self, settings: PrefixCache, block_tokens: int, limit: int) -> None:
        self.settings = settings
        self.block_tokens = settings.block_tokens or block_tokens
        self.limit = limit
        self.blocks: dict[int, None] = {}

    def num_matching(self, ids: tuple[int, ...]) -> int:
        return next((i for i, b in enumerate(ids) if b not in self.blocks), len(ids))

    def keep(self, ids: tuple[int, ...]) -> None:
        for block in ids:
            self.blocks.pop(block, None)
            self.blocks[block] = None
            self.shrink(self.limit)

    def shrink(self, limit: int) -> None:
        while len(self.blocks) > limit:
            del self.blocks[next(iter(self.blocks))]


class WatchedBlocks(dict):
    """The blocks that requests hold; tells when they change."""

    on_change: Callable[[], None]

    def __setitem__(self, key, value) -> None:
        super().__setitem__(key, value)
        self.on_change()

    def __delitem__(self, key) -> None:
        super().__delitem__(key)
        self.on_change()

    def update(self, *args) -> None:
        super().update(*args)
        self.on_change()


class PrefixSimulator(ReferenceSimulator):
    """`ReferenceSimulator` with what `planner.simulator.prefix_cache` adds."""

    def __init__(
        self,
        system: ServingSystem,
        requests: Requests,
        clients: int | None = None,
        ramp: float = 0.0,
    ) -> None:
        super().__init__(system, requests, clients)
        self.is_ramped = ramp > 0
        if clients and ramp > 0:
            self.num_open = min(clients, len(self.jobs))
            for number, job in enumerate(self.jobs[:clients]):
                job.arrival = number * ramp / clients
        blocks = requests.prefix_blocks
        rows = blocks.rows() if blocks is not None else [()] * len(self.jobs)
        self.expected: list[Job] = []
        self.starts: list[tuple[float, int]] = []
        for number, job in enumerate(self.jobs):
            job.number, job.blocks, job.following = number, rows[number], None
            job.hits = job.hit_tokens = job.fetched = 0
            job.load = job.ready = job.work = 0.0
            job.at = None
        if requests.turns is not None:
            self.open_sessions(requests)
        self.caches: dict[int, LruCache] = {}
        shared: dict[PrefixCache, LruCache] = {}
        for rep in self.replicas:
            settings = rep.given.prefix_cache
            if settings is None or rep.given.phase is Phase.DECODE or blocks is None:
                continue
            tokens = settings.tokens(system.kv_bytes_per_token)
            size = settings.block_tokens or blocks.block_tokens
            limit = rep.given.kv_capacity_tokens if tokens is None else tokens
            cache = LruCache(settings, blocks.block_tokens, limit // size)
            if settings.scope is CacheScope.GLOBAL:
                cache = shared.setdefault(settings, cache)
            self.caches[rep.index] = cache
            if settings.is_leftover:
                rep.held = WatchedBlocks()
                rep.held.on_change = lambda rep=rep: self.fit_leftover(rep)

    def open_sessions(self, requests: Requests) -> None:
        self.num_open = requests.turns.num_first
        for number, previous in enumerate(requests.turns.previous.tolist()):
            if previous >= 0:
                self.jobs[number].arrival = math.inf
                self.jobs[number].think = float(requests.turns.think_ms[number])
                self.jobs[previous].following = self.jobs[number]

    def fit_leftover(self, rep: ReplicaState) -> None:
        cache = self.caches[rep.index]
        cache.limit = rep.free * rep.given.kv_block_tokens // cache.block_tokens
        cache.shrink(cache.limit)

    # Prefixes.

    def saved(self, rep: ReplicaState, job: Job, blocks: int) -> int:
        cache = self.caches.get(rep.index)
        return min(blocks * cache.block_tokens, job.input) if cache else 0

    def find_prefix(self, rep: ReplicaState, job: Job | None) -> None:
        if job is None or job in rep.begun or rep.index not in self.caches:
            return
        job.found = self.caches[rep.index].num_matching(job.blocks)
        used = max(job.found, job.fetched)
        job.cached = min(self.saved(rep, job, used), job.context - 1)

    def admit(self, rep: ReplicaState) -> None:
        job = rep.prompts[0]
        job.load = 0.0  # of an earlier prefill, where this one computes again
        if rep.index in self.caches:
            cache = self.caches[rep.index]
            cache.keep(job.blocks[: job.found])
            if job.done == 0:
                job.hits, job.hit_tokens = max(job.found, job.fetched), job.cached
            job.fetched = 0
            loaded = min(self.saved(rep, job, job.found), job.cached)
            job.load = loaded * self.ms_per_token(cache.settings.load_bytes_per_s)
        super().admit(rep)

    def ms_per_token(self, bytes_per_s: float | None) -> float:
        if bytes_per_s is None:
            return 0.0
        return self.system.kv_bytes_per_token * 1000.0 / bytes_per_s

    def loading(self, jobs: list[Job]) -> float:
        ready = max(job.ready for job in jobs)
        return max(sum(job.load for job in jobs), ready - self.now)

    def prefill_duration(self, rep: ReplicaState, table, batch: list[Job]) -> float:
        computed = super().prefill_duration(rep, table, batch)
        return max(computed, self.loading(batch))

    def form_step(self, rep: ReplicaState) -> Step | None:
        step = super().form_step(rep)
        if step is not None and step.chunks:
            new = [c.job for c in step.chunks if c.past == c.job.cached]
            computed = step.duration

            def duration(rep: ReplicaState, stage: int) -> float:
                ready = max([job.ready for job in new], default=0.0) - self.now
                loaded = sum(job.load for job in new)
                return max(computed(rep, stage), loaded, ready)

            step.duration = duration
        return step

    def first_token(self, job: Job, replica: ReplicaState | None) -> None:
        if job in self.expected:
            self.expected.remove(job)
            self.starts.append((self.now, job.input))
        if replica is not None and replica.index in self.caches:
            self.caches[replica.index].keep(job.blocks)
        super().first_token(job, replica)

    def preempt(self, rep: ReplicaState, job: Job) -> None:
        job.cached = 0
        super().preempt(rep, job)

    def release(self, job: Job, rep: ReplicaState | None) -> None:
        """Blocks given back stay in a cache that is what the KV cache leaves free."""
        cache = self.caches.get(rep.index) if rep is not None else None
        if cache is not None and cache.settings.is_leftover:
            cache.keep(job.blocks)

    def drop_source(self, job: Job) -> None:
        super().drop_source(job)
        self.release(job, job.source)

    def end(self, job: Job, is_rejected: bool = False) -> None:
        waiting = [j for j in self.jobs if j.arrival == math.inf]
        super().end(job, is_rejected)
        if self.is_ramped and waiting:
            self.at(self.now, TURN_DUE, self.arrive, waiting[0])
        rep = job.at
        if not is_rejected and rep is not None and rep.given.phase is Phase.AGGREGATED:
            self.release(job, rep)
        if job.following is None:
            return
        if not is_rejected and rep is not None and rep.index in self.caches:
            cache = self.caches[rep.index]
            if cache.settings.keeps_outputs:
                kept = (job.input + job.output - 1) // cache.block_tokens
                cache.keep(job.following.blocks[:kept])
        due = job.following.arrival = self.now + job.following.think
        # Turns due at one instant come in the order of their numbers.
        entry = (due, TURN_DUE, job.following.number, self.arrive, (job.following,))
        heapq.heappush(self.events, entry)

    # Arrivals.

    def arrive(self, job: Job) -> None:
        if not self.prefills:
            super().arrive(job)
            return
        system = self.system
        if system.routing is Routing.CACHE_AWARE:
            replica = self.least_ttft(job)
        else:
            replica = self.choose(Phase.PREFILL, job)
        kept = job.input + (job.output if replica.decodes else 0)
        if replica.blocks_for(job, kept) > replica.capacity:
            self.end(job, is_rejected=True)
            return
        if system.early_rejection is not None:
            if system.routing is not Routing.CACHE_AWARE:
                job.ttft = self.expect(replica, job, self.own(replica, job))
            if self.is_refused(job):
                self.end(job, is_rejected=True)
                return
            job.expected_at = self.now + job.ttft
            self.expected.append(job)
        job.at = replica
        replica.in_system.add(job)
        replica.prompts.append(job)

    def own(self, rep: ReplicaState, job: Job) -> int:
        cache = self.caches.get(rep.index)
        return cache.num_matching(job.blocks) if cache else 0

    def queue(self, rep: ReplicaState) -> float:
        """Expected prefills of all that were sent there and have no token yet."""
        return sum(j.work for j in self.jobs if j.at is rep and not j.token_times)

    def expect(self, rep: ReplicaState, job: Job, blocks: int) -> float:
        past = min(self.saved(rep, job, blocks), job.input - 1)
        left = job.input - past
        limits = rep.given.limits
        budget = limits.max_batch_tokens
        pieces = [left]
        if limits.policy.cuts_prompts and left > budget:
            pieces = [budget] * (left // budget) + [left % budget] * (left % budget > 0)
        squares = left * (left + 2 * past)
        work = 0.0
        for table in rep.given.stages:
            linear = sum(
                table.prefill_step_ms([n]) - table.prefill_per_sq_token_ms * n * n
                for n in pieces
            )
            work = max(work, linear + table.prefill_per_sq_token_ms * squares)
        if rep.index in self.caches:
            settings = self.caches[rep.index].settings
            work = max(work, past * self.ms_per_token(settings.load_bytes_per_s))
        job.work = work = math.floor(work * 2**20) / 2**20
        chunks = len(pieces)
        through = work * (chunks + len(rep.given.stages) - 1) / chunks
        return (self.queue(rep) + through) * self.slowed(rep)

    def slowed(self, rep: ReplicaState) -> float:
        """A full step beside the decodes there, over its prompts alone."""
        limits, stages = rep.given.limits, rep.given.stages
        budget = limits.max_batch_tokens
        decodes = min(-(-len(rep.resident) // len(stages)), budget - 1)
        if not rep.decodes or not limits.policy.mixes_decodes or decodes == 0:
            return 1.0
        kv = sum(j.input for j in rep.in_system if j.done > 0) / len(stages)
        chunk = budget - decodes
        alone = max(_linear_ms(t, chunk) for t in stages)
        beside = max(
            t.mixed_step_ms([chunk], [0], decodes, kv)
            - t.mixed_per_sq_token_ms * chunk**2
            for t in stages
        )
        return max(1.0, beside / alone) if alone > 0 else 1.0

    def least_ttft(self, job: Job) -> ReplicaState:
        longest = max(self.own(rep, job) for rep in self.prefills)
        best = None
        for rep in self.prefills:
            used, copying = self.own(rep, job), 0.0
            settings = self.caches[rep.index].settings if self.caches else None
            copies = settings is not None and settings.fetch_bytes_per_s is not None
            if copies and longest > used * settings.balancing_threshold:
                most = min(self.saved(rep, job, longest), job.input - 1)
                mine = min(self.saved(rep, job, used), job.input - 1)
                rate = self.ms_per_token(settings.fetch_bytes_per_s)
                copying, used = (most - mine) * rate, longest
            ttft = copying + self.expect(rep, job, used)
            if best is None or ttft < best[0]:
                best = (ttft, rep, copying, job.work)
        job.ttft, chosen, copying, job.work = best
        if copying > 0:
            job.fetched, job.ready = longest, self.now + copying
        return chosen

    def is_refused(self, job: Job) -> bool:
        rule = self.system.early_rejection
        if job.ttft > rule.ttft_ms:
            return True
        decoders = self.decoders or [r for r in self.prefills if r.decodes]
        if not decoders:
            return False
        num = len(decoders)
        loads = [
            (len(r.resident) + 1, sum(j.input for j in r.in_system) + job.input)
            for r in decoders
        ]
        if rule.rule is AdmissionRule.PREDICTED:
            end = self.now + job.ttft
            begin = end - rule.decode_ms
            prompts = [tokens for start, tokens in self.starts if start > begin]
            prompts += [j.input for j in self.expected if begin < j.expected_at <= end]
            count = len(prompts) + 1
            loads = [(-(-count // num), (sum(prompts) + job.input) / num)] * num
        total = 0.0
        for rep, (batch, tokens) in zip(decoders, loads, strict=True):
            stages = rep.given.stages
            share = min(-(-batch // len(stages)), rep.given.limits.max_num_seqs)
            share = rep.given.limits.step_batch(share)
            total += sum(t.decode_step_ms(share, tokens / len(stages)) for t in stages)
        return total / num > rule.tbt_ms


def _linear_ms(table: StepTable, tokens: int) -> float:
    """A prompt without its attention."""
    attention_ms = table.prefill_per_sq_token_ms * tokens * tokens
    return table.prefill_step_ms([tokens]) - attention_ms
