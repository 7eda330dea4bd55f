"""The honest answer to the first question: disaggregate or not, and by how much."""

from planner.objective import Goal
from planner.problem import Problem
from planner.search.contract import Candidate


def verdict(problem: Problem, finalists: tuple[Candidate, ...]) -> str:
    """One sentence that compares the best of both kinds on the problem's goal."""
    best = {
        kind: next(
            (c for c in finalists if c.deployment.is_disaggregated is kind), None
        )
        for kind in (True, False)
    }
    split, joint = best[True], best[False]
    if split is None:
        return "Not compared: no disaggregated deployment was simulated."
    if joint is None:
        return "Not compared: no aggregated deployment was simulated."
    if split.goodput.rate_rps <= 0 and joint.goodput.rate_rps <= 0:
        return "Neither disaggregated nor aggregated replicas meet the SLO."
    if split.goodput.rate_rps <= 0:
        return "Do not disaggregate: no disaggregated deployment meets the SLO."
    if joint.goodput.rate_rps <= 0:
        return "Disaggregate: no aggregated deployment meets the SLO."
    do_split = split.rank(problem) <= joint.rank(problem)
    winner, loser = (split, joint) if do_split else (joint, split)
    word = "Disaggregate" if do_split else "Do not disaggregate"
    return f"{word}: {_advantage(problem, winner, loser)}."


def _advantage(problem: Problem, winner: Candidate, loser: Candidate) -> str:
    goal = problem.objective.goal
    kind = "aggregated" if winner.deployment.is_disaggregated else "disaggregated"
    best = f"the best {kind} deployment{_batching(loser)}"
    if goal.is_upper:
        per_gpu = goal is Goal.MAX_GOODPUT_PER_GPU
        ours = winner.goodput_per_gpu_rps if per_gpu else winner.goodput.rate_rps
        theirs = loser.goodput_per_gpu_rps if per_gpu else loser.goodput.rate_rps
        unit = "requests/s per GPU" if per_gpu else "requests/s"
        return (
            f"{ours:.3f} against {theirs:.3f} {unit} of {best} "
            f"({ours / theirs - 1.0:+.0%})"
        )
    target = problem.service.workload.rate_rps or 0.0
    if winner.goodput.rate_rps < target:
        return (
            f"{winner.goodput.rate_rps:.3f} against {loser.goodput.rate_rps:.3f} "
            f"requests/s of {best}, though neither serves {target:g} requests/s"
        )
    if loser.goodput.rate_rps < target:
        return (
            f"no {kind} deployment serves {target:g} requests/s "
            f"(best {loser.goodput.rate_rps:.3f})"
        )
    if goal is Goal.MIN_COST and winner.usd_per_hour and loser.usd_per_hour:
        return (
            f"{winner.usd_per_hour:.2f} against {loser.usd_per_hour:.2f} $/h of {best}"
        )
    if goal is Goal.MIN_POWER and winner.power_w and loser.power_w:
        return f"{winner.power_w:,.0f} against {loser.power_w:,.0f} W of {best}"
    ours_gpus, theirs_gpus = winner.deployment.num_gpus, loser.deployment.num_gpus
    text = f"{ours_gpus} against {theirs_gpus} GPUs of {best}"
    if ours_gpus == theirs_gpus:
        lead = winner.goodput.rate_rps / loser.goodput.rate_rps - 1.0
        text += f", with {lead:+.0%} goodput"
    return text


def _batching(candidate: Candidate) -> str:
    """Policy and token budget of an aggregated deployment, e.g. `` (chunked 512)``."""
    if candidate.deployment.is_disaggregated:
        return ""
    found = dict.fromkeys(
        f"{limits.policy} {limits.max_batch_tokens}"
        if limits.policy.cuts_prompts
        else str(limits.policy)
        for limits in (replica.limits for replica in candidate.deployment.replicas)
    )
    return f" ({', '.join(found)})"
