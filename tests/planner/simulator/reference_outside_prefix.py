"""Prefix caches and sessions in plain Python, while things happen from outside."""

from planner.simulator.prefix_settings import CacheScope
from planner.simulator.system import Phase
from tests.planner.simulator.reference_outside import ReferenceWithEvents
from tests.planner.simulator.reference_prefix import PrefixSimulator, WatchedBlocks
from tests.planner.simulator.reference_state import Job, ReplicaState


class PrefixWithEvents(ReferenceWithEvents, PrefixSimulator):
    """A failed replica loses its own cache; requests are prefilled with another's."""

    def renew(self, rep: ReplicaState, change: dict[Phase, Phase]) -> None:
        super().renew(rep, change)
        cache = self.caches.get(rep.index)
        if cache is None:
            return
        if cache.settings.scope is CacheScope.LOCAL:
            cache.blocks.clear()
        if cache.settings.is_leftover:
            new = self.replicas[rep.index]
            new.held = WatchedBlocks()
            new.held.on_change = lambda: self.fit_leftover(new)
            self.fit_leftover(new)

    def give_back(self, job: Job, rep: ReplicaState) -> None:
        self.release(job, rep)

    def is_refused(self, job: Job) -> bool:
        """Who has been let in stays in."""
        refused = not getattr(job, "is_let_in", False) and super().is_refused(job)
        job.is_let_in = not refused
        return refused

    def first_token(self, job: Job, replica: ReplicaState | None) -> None:
        starts = list(self.starts)
        has_begun = bool(job.token_times)
        super().first_token(job, replica)
        if has_begun:
            self.starts = starts

    def start_again(self, job: Job) -> None:
        if job in self.expected:
            self.expected.remove(job)
        job.cached = job.fetched = 0
        job.ready = 0.0
        job.at = None
        super().start_again(job)

    def saved(self, rep: ReplicaState, job: Job, blocks: int) -> int:
        """A block that a prompt does not fill holds no token of the answer."""
        cache = self.caches.get(rep.index)
        prompt = job.input - job.streamed
        return min(blocks * cache.block_tokens, prompt) if cache else 0

    def queue(self, rep: ReplicaState) -> float:
        """Prompts that are computed again are expected again."""
        return sum(j.work for j in self.jobs if j.at is rep and j.done == 0)

    def admit(self, rep: ReplicaState) -> None:
        job = rep.prompts[0]
        first = job.hits, job.hit_tokens
        super().admit(rep)
        if job.token_times:
            job.hits, job.hit_tokens = first
