"""Who serves a request, in the plain reference simulator: rules read off lists."""

from fractions import Fraction
from itertools import count

from planner.simulator.control import (
    DecodeAdmission,
    DecodeMix,
    Forecast,
    dice,
    expected_outputs,
)
from planner.simulator.system import KvRoute, Phase, Routing, ServingSystem
from planner.workload.requests import Requests
from tests.planner.simulator.reference_state import Job, ReplicaState


class Routers:
    """The part of the reference simulator that chooses replicas."""

    jobs: list[Job]
    replicas: list[ReplicaState]
    prefills: list[ReplicaState]
    decoders: list[ReplicaState]

    def prepare_routing(self, system: ServingSystem, requests: Requests) -> None:
        """What the policies may know of the requests."""
        self.credit: dict[tuple[int | None, int], Fraction] = {}
        self.turn = {Phase.PREFILL: count(), Phase.DECODE: count()}
        self.routing = system.routing
        phases = {replica.phase for replica in system.replicas}
        looks_ahead = system.routing in (Routing.TETRIINFER, Routing.SPLITWISE)
        if looks_ahead and len(phases) < 2:
            self.routing = Routing.SHORTEST_QUEUE
        forecast = system.router.forecast
        if forecast is None:
            is_mean = system.routing is not Routing.TETRIINFER
            forecast = Forecast.MEAN if is_mean else Forecast.BUCKETS
        expected = expected_outputs(requests.output_tokens, system.router, forecast)
        for job, tokens, bits in zip(
            self.jobs, expected, dice(len(requests), system.router), strict=True
        ):
            job.expected, job.dice = int(tokens), int(bits)
            job.is_heavy = job.expected > system.router.heavy_output_tokens

    def choose(self, phase: Phase, job: Job, slice: int | None = None) -> ReplicaState:
        """In turn, passing over those of other slices, at random, or by work."""
        wanted = self.decoders if phase is Phase.DECODE else self.prefills
        fitting = [r for r in wanted if slice in (None, r.given.slice)]
        if self.routing is Routing.ROUND_ROBIN:
            while True:
                chosen = wanted[next(self.turn[phase]) % len(wanted)]
                if chosen in fitting:
                    return chosen
        bits = job.dice % 2**31 if phase is Phase.PREFILL else job.dice // 2**31
        if self.routing is Routing.RANDOM:
            return fitting[bits % len(fitting)]
        if self.routing is Routing.POWER_OF_TWO:
            return min(two_of(fitting, bits), key=ReplicaState.work)
        if self.routing is Routing.PENDING_TOKENS and phase is Phase.PREFILL:
            return min(fitting, key=lambda r: (r.weight * self.pending(r), r.work()))
        if self.routing is Routing.TETRIINFER and phase is Phase.DECODE:
            roomy = [r for r in fitting if self.has_room(r, job)]
            pair = two_of(roomy or fitting, bits)
            return min(pair, key=lambda r: (self.mix(r, job), self.promised(r)))
        if self.routing is Routing.FLOW_SHARES and fitting:
            is_arrival = phase is Phase.PREFILL or job.prefiller is None
            return self.by_share(fitting, None if is_arrival else job.prefiller.index)
        return min(fitting, key=ReplicaState.work)

    def by_share(self, fitting: list[ReplicaState], source: int | None) -> ReplicaState:
        """The one that is due a request first, by exact arithmetic."""
        shares = {r.index: self.share(source, r.index) for r in fitting}
        total = sum(shares.values())
        if total == 0:
            return min(fitting, key=ReplicaState.work)
        behind = {}
        for rep in fitting:
            share = shares[rep.index] / total
            if share > 0:
                credit = self.credit.get((source, rep.index), Fraction(0)) + share
                self.credit[source, rep.index] = credit
                behind[rep] = (credit <= 0, (1 - credit) / share)
        chosen = min(behind, key=behind.__getitem__)
        self.credit[source, chosen.index] -= 1
        return chosen

    def share(self, source: int | None, index: int) -> Fraction:
        """Planned share of a route, or of all routes out of a replica."""
        slices = [replica.slice for replica in self.system.replicas]
        return sum(
            (
                Fraction(route.share_frac)
                for route in self.system.routes
                if slices[route.source] == slices[route.target]
                and (source, index) in ((None, route.source), route_ends(route))
            ),
            Fraction(0),
        )

    # What has been promised of a replica, counted anew from all requests.

    def pending(self, rep: ReplicaState) -> int:
        return sum(j.input for j in self.jobs if j.prefiller is rep and j.done == 0)

    def decoding_at(self, rep: ReplicaState) -> list[Job]:
        return [j for j in self.jobs if j.target is rep and not j.is_over]

    def prompts_to_send(self, rep: ReplicaState) -> list[Job]:
        """Prompts that are or will be computed here and decode elsewhere."""
        return [
            j
            for j in self.jobs
            if j.prefiller is rep and j.target is not rep and not j.has_left
        ]

    def used(self, rep: ReplicaState) -> int:
        tokens = sum(j.input + j.expected for j in self.decoding_at(rep))
        if self.routing is Routing.SPLITWISE:
            tokens += sum(j.input for j in self.prompts_to_send(rep))
        return tokens

    def promised(self, rep: ReplicaState) -> int:
        """Minus the room that is left."""
        return self.used(rep) - rep.capacity * rep.given.kv_block_tokens

    def has_room(self, rep: ReplicaState, job: Job) -> bool:
        return job.input + job.expected <= -self.promised(rep)

    def mix(self, rep: ReplicaState, job: Job) -> tuple[float, ...]:
        """Heavy and light decodes; or heavy for each light, with this and one light."""
        jobs = self.decoding_at(rep)
        heavy = sum(j.is_heavy for j in jobs)
        if self.system.router.decode_mix is DecodeMix.FEWEST_HEAVY:
            return heavy, len(jobs) - heavy
        heavy += job.is_heavy
        return (heavy / (2 + len(jobs) - heavy),)

    def is_mixed(self, rep: ReplicaState) -> bool:
        """Whether there is work of the phase that is not the replica's own."""
        if rep.given.phase is Phase.PREFILL:
            return bool(self.decoding_at(rep))
        computing = [j for j in self.decoding_at(rep) if j.prefiller is rep]
        return bool(self.prompts_to_send(rep) or [j for j in computing if j.done == 0])

    def choose_pair(self, job: Job) -> tuple[ReplicaState, ReplicaState]:
        """Splitwise: who prefills a request, and who decodes it."""
        serving = sorted([*self.prefills, *self.decoders], key=lambda r: r.index)
        mixed = [r for r in serving if self.is_mixed(r)]
        pure = [r for r in serving if r not in mixed]
        prompt = [r for r in pure if r.given.phase is Phase.PREFILL]
        token = [r for r in pure if r.given.phase is Phase.DECODE]
        limit = self.system.router.max_pending_tokens

        def least_pending(pool: list[ReplicaState]) -> ReplicaState | None:
            if not pool:
                return None
            return min(pool, key=lambda r: (self.pending(r), self.used(r)))

        def accepts(rep: ReplicaState | None) -> bool:
            if rep is None:
                return False
            return not rep.prompts or self.pending(rep) + job.input <= limit

        source = least_pending(prompt)
        if not accepts(source):
            source = least_pending(mixed)
        if not accepts(source):
            source = least_pending(token)

        def emptiest(pool: list[ReplicaState]) -> ReplicaState | None:
            near = [r for r in pool if r.given.slice == source.given.slice]
            return min(near, key=self.used) if near else None

        target = None
        if source is not None:
            sends_freely = source in prompt
            target = emptiest(token)
            if target is None or not self.has_room(target, job):
                target = emptiest(mixed) if sends_freely else source
                if target is None or not self.has_room(target, job):
                    target = emptiest(prompt) if sends_freely else None
        if source is None or target is None:
            source = target = least_pending(serving)
        return source, target

    def is_too_long(self, job: Job, source: ReplicaState) -> bool:
        """Whether a replica that is chosen already can never hold it."""
        total = job.input + job.output
        kept = total if source.keeps(job) else job.input
        if self.routing is Routing.SPLITWISE:
            target = job.target
            if target.blocks_for(job, total) > target.capacity:
                return True
        return source.blocks_for(job, kept) > source.capacity

    def may_fetch(self, rep: ReplicaState, job: Job) -> bool:
        """Whether the admission rule allows it, beside blocks and a place."""
        rule = rep.given.limits.decode_admission
        if rule is DecodeAdmission.GREEDY or not rep.resident:
            return True
        if rule is DecodeAdmission.RESERVE_STATIC:
            return rep.can_admit(rep.blocks_for(job, job.input + job.expected))
        decoding = [j for j in rep.resident if j.is_decoding]
        if not decoding:
            return True

        def left(other: Job) -> int:
            return max(0, other.input + other.expected - other.context)

        first = min(decoding, key=lambda j: (left(j), -j.context))
        later = job.input + left(first) * len(decoding)
        return later <= rep.free * rep.given.kv_block_tokens + first.context


def route_ends(route: KvRoute) -> tuple[int, int]:
    return route.source, route.target


def two_of(replicas: list[ReplicaState], bits: int) -> list[ReplicaState]:
    """Two different ones at random, in the order in which they are drawn."""
    first = replicas[bits % len(replicas)]
    others = [r for r in replicas if r is not first]
    if not others:
        return [first]
    return [first, others[bits // len(replicas) % len(others)]]


def take_window(rep: ReplicaState) -> None:
    """Sort the first prompts that wait, when those sorted before are used up."""
    limits = rep.given.limits
    if limits.prompt_order == "fcfs" or rep.num_sorted > 0:
        return
    window = rep.prompts[: limits.prompt_window]
    sign = -1 if limits.prompt_order == "ljf" else 1
    rep.prompts[: len(window)] = sorted(window, key=lambda job: sign * job.context)
    rep.num_sorted = len(window)
