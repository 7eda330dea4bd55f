"""Batching of a shape: the policy and token budget that serve one replica best.

Every method rates its shapes with their best batching (`planner.search.phases`), so
that aggregated and disaggregated deployments are compared at their best.

Steps
    1. The engine's own limits.
    2. Each policy of the problem's search space, with its best token budget where it
       cuts prompts or the replica only prefills (`planner.search.chunk_budget`).
       Prefill replicas cut prompts only in pipelines, where the chunks of a prompt
       follow each other.
    3. Whatever cannot exceed the best goodput so far by its capacity bound is left out;
       the rest has to meet the SLO at that rate first.

Cost      about 5 goodput searches, most of them of one run
Guarantee heuristic: the best of one replica alone, to the tolerance of the goodput
"""

from planner.capacity import replica_capacity_rps
from planner.deployment import Deployment
from planner.problem import Problem
from planner.search.chunk_budget import (
    LEAD,
    best_chunk_budget,
    ladder,
    limits_of_policy,
    with_limits,
)
from planner.search.contract import SearchContext
from planner.serving import Planner
from planner.simulator.system import Batching, BatchLimits, Phase
from planner.slo import Slo
from planner.workload.requests import Requests

_SAMPLE_REQUESTS = 300


def best_batching(context: SearchContext, alone: Deployment, slo: Slo) -> Deployment:
    """A deployment of one replica with the batch limits that serve `slo` best."""
    key = (alone.replicas[0], slo)
    if key not in context.batched:
        found = _best_batching(context, alone, slo)
        if context.is_stopped:
            return found
        context.batched[key] = found
    return context.batched[key]


def _best_batching(context: SearchContext, alone: Deployment, slo: Slo) -> Deployment:
    evaluator = context.evaluator
    planner = evaluator.planner
    policies = policies_of(context.problem, alone)
    if not policies or context.should_stop():
        return alone
    service = context.problem.service
    sample = service.workload.draw(_SAMPLE_REQUESTS, seed=0, rate_rps=1.0)
    # 1. The engine's own limits.
    best = alone
    rate_rps = evaluator.system_goodput(planner.system(alone), slo).rate_rps
    for policy in policies:
        if context.should_stop():
            break
        floor_rps = rate_rps * LEAD
        # 3. Bound first.
        if policy_bound_rps(planner, alone, policy, slo, sample) <= floor_rps:
            continue
        # 2. Another policy.
        limits = limits_of_policy(context.problem.engine.limits, policy)
        if policy.cuts_prompts or alone.replicas[0].phase is Phase.PREFILL:
            choice = best_chunk_budget(
                evaluator,
                alone,
                slo,
                policy=policy,
                floor_rps=floor_rps,
                should_stop=context.should_stop,
            )
            limits, found_rps = choice.limits, choice.rate_rps
        else:
            system = planner.system(with_limits(planner, alone, limits))
            found = evaluator.system_goodput(system, slo, floor_rps=floor_rps)
            found_rps = found.rate_rps
        if found_rps > rate_rps:
            best, rate_rps = with_limits(planner, alone, limits), found_rps
    return best


def policies_of(problem: Problem, alone: Deployment) -> tuple[Batching, ...]:
    """Policies to try for a replica beside the engine's own limits."""
    (replica,) = alone.replicas
    engine = problem.engine.limits
    wanted = wanted_policies(problem)
    is_searched = problem.search.is_batching_searched
    if replica.phase is Phase.DECODE or not wanted or not is_searched:
        return ()
    if replica.phase is Phase.AGGREGATED:
        found = [p for p in wanted if p.cuts_prompts or p is not engine.policy]
    else:
        cutting = [policy for policy in wanted if policy.cuts_prompts]
        found = cutting if replica.parallelism.pp > 1 else [engine.policy]
    return tuple(dict.fromkeys(found))


def wanted_policies(problem: Problem) -> tuple[Batching, ...]:
    """Policies that a problem wants to be tried."""
    return problem.search.policies or _usual(problem.engine.limits)


def _usual(engine: BatchLimits) -> tuple[Batching, ...]:
    """Policies tried where the problem names none."""
    if engine.policy.cuts_prompts:
        return (engine.policy,)
    return (Batching.CHUNKED,) if _is_plain(engine) else ()


def _is_plain(engine: BatchLimits) -> bool:
    """Whether nobody has asked for what only prefill-first engines have."""
    return (
        engine.policy is Batching.PREFILL_FIRST
        and engine.max_step_context_tokens is None
    )


def policy_bound_rps(
    planner: Planner, alone: Deployment, policy: Batching, slo: Slo, sample: Requests
) -> float:
    """Rate that no budget of a policy exceeds: the KV cache that the least leaves."""
    engine = planner.problem.engine.limits
    least = ladder(engine.max_batch_tokens)[0]
    roomy = with_limits(planner, alone, limits_of_policy(engine, policy, least))
    most = limits_of_policy(engine, policy)
    system = planner.system(roomy.with_limits(most))
    return replica_capacity_rps(system.replicas[0], sample, slo)


def batching_bound_rps(
    planner: Planner, alone: Deployment, slo: Slo, sample: Requests
) -> float:
    """Rate that a replica exceeds with none of the batchings that are searched."""
    own = replica_capacity_rps(planner.system(alone).replicas[0], sample, slo)
    policies = policies_of(planner.problem, alone)
    others = [policy_bound_rps(planner, alone, p, slo, sample) for p in policies]
    return max([own, *others])
