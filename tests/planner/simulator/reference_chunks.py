"""Steps that mix prompt chunks with decodes, in the plain reference simulator.

A step is a list of decoding jobs and a list of chunks. Everything is counted by
looking: who is in a step under way, how much of a prompt is cached, what blocks are
held.
"""

from dataclasses import dataclass, field

from planner.simulator.system import Batching, BatchLimits
from tests.planner.simulator.reference_state import Job, ReplicaState


@dataclass(eq=False)
class Chunk:
    """Some tokens of a prompt in one step."""

    job: Job
    tokens: int
    past: int

    @property
    def is_last(self) -> bool:
        return self.past + self.tokens == self.job.context


@dataclass(eq=False)
class Step:
    """A step of a chunked replica: on a stage, or between two."""

    decodes: list[Job]
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return len(self.decodes) + sum(chunk.tokens for chunk in self.chunks)

    @property
    def is_mixed(self) -> bool:
        return bool(self.decodes and self.chunks)

    def duration(self, rep: ReplicaState, stage: int) -> float:
        table = rep.given.stages[stage]
        if not self.chunks:
            attended = sum(job.context for job in self.decodes)
            batch = captured(rep.given.limits, len(self.decodes))
            return table.decode_step_ms(batch, attended)
        return table.mixed_step_ms(
            [chunk.tokens for chunk in self.chunks],
            [chunk.past for chunk in self.chunks],
            len(self.decodes),
            sum(job.context for job in self.decodes),
        )


def captured(limits: BatchLimits, batch: int) -> int:
    """The smallest captured batch that holds `batch`; itself if none does."""
    return min([s for s in limits.graph_batch_sizes if s >= batch], default=batch)


def is_partial(rep: ReplicaState, job: Job) -> bool:
    """Whether some chunks of a prompt are begun and some are not."""
    return job in rep.begun and rep.begun[job] < job.context


def idle_partials(rep: ReplicaState) -> list[Job]:
    """Half prefilled prompts that no step under way computes."""
    under_way = {chunk.job for step in rep.steps for chunk in step.chunks}
    return [job for job in rep.begun if is_partial(rep, job) and job not in under_way]


def chunk_of(rep: ReplicaState, job: Job, step: Step) -> int:
    """Tokens of `job` that go into `step` next."""
    limits = rep.given.limits
    used = step.num_tokens
    left = limits.max_batch_tokens - used
    wanted = job.context - rep.begun.get(job, job.cached)
    if limits.policy is Batching.ORCA:
        return wanted if not step.chunks or wanted <= left else 0
    if limits.max_chunk_tokens is not None:
        wanted = min(wanted, limits.max_chunk_tokens)
    if wanted <= left:
        return wanted
    tile = limits.chunk_tile_tokens
    return max(0, limits.max_batch_tokens // tile * tile - used)


def next_in_line(rep: ReplicaState, step: Step) -> Job | None:
    """The prompt whose chunk comes next in `step`, if its turn has come."""
    in_step = {chunk.job for chunk in step.chunks}
    partial = [job for job in rep.begun if is_partial(rep, job)]
    limits = rep.given.limits
    if len(step.chunks) >= (limits.max_step_prompts or limits.max_num_seqs):
        return None
    for job in idle_partials(rep) if limits.has_chunks_in_turn else partial:
        if job not in in_step:
            return job
    most = limits.max_partial_prompts
    if len(step.chunks) + len(step.decodes) >= rep.max_micro_batch:
        return None
    if not rep.prompts:
        return None
    if not rep.has_place() or (most is not None and len(partial) >= most):
        return None
    job = rep.prompts[0]
    blocks = rep.blocks_for(job, job.context + rep.keeps(job))
    return job if rep.can_admit(blocks) else None


class ChunkedSteps:
    """The part of the reference simulator for chunked replicas."""

    def form_step(self, rep: ReplicaState) -> Step | None:
        if len(rep.steps) >= len(rep.busy):
            return None
        mixes = rep.given.limits.policy is not Batching.PREFILL_FIRST_CHUNKED
        step = Step([])
        due = next_in_line(rep, step)
        self.find_prefix(rep, due)
        if mixes or due is None or chunk_of(rep, due, step) == 0:
            step.decodes = self.next_micro_batch(rep)
        if mixes or not step.decodes:
            self.add_chunks(rep, step)
        if step.num_tokens == 0:
            return None
        rep.steps.append(step)
        return step

    def add_chunks(self, rep: ReplicaState, step: Step) -> None:
        while (job := next_in_line(rep, step)) is not None:
            self.find_prefix(rep, job)
            tokens = chunk_of(rep, job, step)
            if tokens == 0:
                return
            if job not in rep.begun:
                self.admit(rep)
                rep.begun[job] = job.cached
            step.chunks.append(Chunk(job, tokens, rep.begun[job]))
            rep.begun[job] += tokens

    def end_step(self, rep: ReplicaState, stage: int, step: Step) -> None:
        rep.busy[stage] = False
        if stage + 1 < len(rep.busy):
            rep.waiting[stage + 1].append(step)
            return
        rep.num_mixed_steps += step.is_mixed
        rep.num_mixed_tokens += step.num_tokens if step.is_mixed else 0
        assert rep.steps.pop(0) is step, "steps leave the pipeline in order"
        for job in step.decodes:
            job.done += 1
            job.token_times.append(self.now)
            if job.done == job.output:
                self.leave(job, rep)
        for chunk in step.chunks:
            if chunk.is_last:
                del rep.begun[chunk.job]
        self.have_token([c.job for c in step.chunks if c.is_last], rep)
        self.meet(rep, [job for job in step.decodes if job.done < job.output])
