"""KV transfers of the reference simulator: pulls, layers one by one, links in turn."""

import math

from planner.simulator.system import Phase
from tests.planner.simulator.reference_state import TRANSFER_END, Job, ReplicaState


class Transfers:
    """What `ReferenceSimulator` does between prefill and decode."""

    def begin_stream(self, job: Job, replica: ReplicaState) -> None:
        """Layer-wise: the decode replica is chosen when the prefill starts."""
        least = self.system.kv_transfer.least_layer_wise_tokens
        if replica.decodes or not self.sends or least is None or job.input < least:
            return
        target = self.choose(Phase.DECODE, job, replica.given.slice)
        if target.blocks_for(job, job.input + job.output) <= target.capacity:
            job.source, job.target, job.begun = replica, target, self.now
            target.in_system.add(job)
            target.pulls.append(job)

    def send_layers(self, job: Job) -> None:
        """Layer after layer, each when it is prefilled and the one before is sent."""
        num = self.system.num_layers
        each_ms = self.alone_ms(job, job.target) / num
        sent = job.link
        for layer in range(1, num + 1):
            made = job.begun + (self.now - job.begun) * layer / num
            sent = max(sent, made) + each_ms
        route = self.routes[job.source.index, job.target.index]
        end = sent + route.latency_ms + self.system.kv_transfer.layer_wise_ms
        self.at(end, TRANSFER_END, self.end_transfer, job, job.target)

    def alone_ms(self, job: Job, target: ReplicaState) -> float:
        route = self.routes[job.source.index, target.index]
        blocks = job.source.blocks(job.input)
        size = self.system.kv_bytes_per_token * job.input
        return blocks * self.system.kv_transfer.block_ms + size * route.ms_per_byte

    def drop_target(self, job: Job) -> None:
        target = job.target
        target.in_system.remove(job)
        if job in target.pulls:
            target.pulls.remove(job)
        else:
            del target.held[job]
            target.resident.remove(job)
        job.target, job.transfer_start = None, math.nan

    def drop_source(self, job: Job) -> None:
        if job.source is not None:
            del job.source.held[job]
            job.has_left = True

    def pull(self, rep: ReplicaState) -> bool:
        job = rep.pulls[0]
        blocks = rep.blocks_for(job, job.input + 1)
        if not rep.has_place() or not rep.can_admit(blocks):
            return False
        if not self.may_fetch(rep, job):
            return False
        rep.pulls.pop(0)
        rep.held[job] = blocks
        rep.resident.add(job)
        job.admission = next(self.admissions)
        job.transfer_start = end = self.now
        if job.source is not None:
            route = self.routes[job.source.index, rep.index]
            size = self.system.kv_bytes_per_token * job.input
            begin = max([self.now, *(self.edge_free[s.edge] for s in route.edges)])
            for share in route.edges:
                self.edge_free[share.edge] = begin + size * share.ms_per_byte
            job.link = begin
            if job.done == 0:
                return True
            end = begin + route.latency_ms + self.alone_ms(job, rep)
        if end <= self.now:
            self.end_transfer(job, rep)
        else:
            self.at(end, TRANSFER_END, self.end_transfer, job, rep)
        return True
