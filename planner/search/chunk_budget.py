"""Chunk budget: how many tokens a step of prompt chunks and decodes should hold.

Reference
    Agrawal et al., "Taming Throughput-Latency Tradeoff in LLM Inference with
    Sarathi-Serve", OSDI 2024, arXiv 2403.02310, section 4.3 (token budget); Agrawal et
    al., "SARATHI", 2023, arXiv 2308.16369, section 4.3 (budgets and the GPU's tile).

Idea
    A decode that shares its step with a chunk waits for the whole step, so the limit on
    the time between tokens bounds the tokens of a step. Within it, larger steps use the
    GPU better. The step time at every size is known from the step tables.

Steps
    1. A full step under steady load: chunks and decodes in the workload's proportion,
       no more decodes than the KV cache holds.
    2. The largest multiple of the tile whose step takes at most the limit. On a prefill
       replica, where no decode waits: the least budget that saturates the GPU.
    3. Its neighbours on a ladder of budgets by simulation, up, then down, while the
       goodput rises, and the same from the top, where prompts are whole. Those that
       miss the SLO at the best rate so far end in one run.

Differences from the paper
    - step 3: a limit on the mean time between tokens of a request allows more than one
      on each step, since not all steps are full, and a limit on TTFT may want less;
    - decodes are taken out of the budget by the workload's proportion instead of by the
      largest batch.

Assumes   a workload with lengths
Cost      about 4 goodput searches, most of them of one run
Guarantee heuristic: a local optimum of the simulated goodput on the ladder
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from clusters.fields import check_fields, spec
from models.latency.step_table import StepTable
from planner.deployment import Deployment
from planner.evaluate import Evaluator
from planner.serving import Planner
from planner.simulator.system import Batching, BatchLimits, Phase, ServingReplica
from planner.slo import Slo
from planner.workload.requests import Requests

TILE_TOKENS = 128
"""Rows of a matrix tile: step times rise where one more is begun (SARATHI, 4.3)."""

LADDER = (1, 2, 3, 4, 6)
"""Budgets tried, in tiles; they go on by doubling."""

SATURATED_FRAC = 0.9
"""Share of the best token rate at which a prefill step counts as saturated."""

LEAD = 1.01
"""What a neighbour must be better by: less is within the bisection's tolerance."""

_SAMPLE_REQUESTS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLoad:
    """What full steps of a replica hold under a workload."""

    decodes_frac: float = spec("Decodes of a step's tokens.", unit="1", ge=0, le=1)
    max_decodes: float = spec("Most decodes of a step.", unit="requests", ge=0)
    prompt_tokens: float = spec(
        "Prompt that a token of a chunk belongs to, on average.", unit="tokens", gt=0
    )
    context_tokens: float = spec(
        "Tokens that a decode attends to, on average.", unit="tokens", ge=0
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, requests: Requests, replica: ServingReplica) -> Self:
        """Of a sample of requests on a replica."""
        inputs, steps = requests.input_tokens, requests.output_tokens - 1
        tokens = float(inputs.sum())
        decodes = float(steps.sum())
        attended = float((steps * (inputs + (steps + 1) / 2)).sum())
        context = attended / decodes if decodes else 0.0
        places = float(replica.limits.max_num_seqs)
        if context:
            places = min(places, replica.kv_capacity_tokens / context)
        return cls(
            decodes_frac=decodes / (tokens + decodes),
            max_decodes=places / len(replica.stages),
            prompt_tokens=float((inputs**2).sum()) / tokens,
            context_tokens=context,
        )

    def step_ms(self, stages: Sequence[StepTable], budget_tokens: int) -> float:
        """Time of a full step through all stages, in ms."""
        decodes = round(min(self.max_decodes, self.decodes_frac * budget_tokens))
        chunk = max(1.0, budget_tokens - decodes)
        piece = min(chunk, self.prompt_tokens)
        whole, rest = int(chunk // piece), chunk % piece
        pieces = [piece] * whole + ([rest] if rest >= 1.0 else [])
        past = [(self.prompt_tokens - piece) / 2.0] * len(pieces)
        tokens = [round(each) for each in pieces]
        before = [round(each) for each in past]
        attended = decodes * self.context_tokens
        return sum(
            stage.mixed_step_ms(tokens, before, decodes, attended) for stage in stages
        )


def largest_budget(
    stages: Sequence[StepTable],
    load: StepLoad,
    limit_ms: float,
    *,
    max_tokens: int,
    tile_tokens: int = TILE_TOKENS,
) -> int:
    """Largest multiple of the tile whose full step takes at most a limit.

    Parameters
    ----------
    stages
        Step tables of the replica's pipeline stages; a token passes all of them.
    load
        What a full step holds.
    limit_ms
        Limit on the time between tokens, in ms.
    max_tokens
        Largest budget.
    tile_tokens
        The tile.

    Returns
    -------
    int
        One tile (or `max_tokens`, if less) where even that takes longer.
    """
    most = max_tokens // tile_tokens
    low, high = 1, max(1, most)
    while low < high:
        middle = (low + high + 1) // 2
        if load.step_ms(stages, middle * tile_tokens) <= limit_ms:
            low = middle
        else:
            high = middle - 1
    return min(max_tokens, low * tile_tokens)


def saturating_budget(stages: Sequence[StepTable], rungs: Sequence[int]) -> int:
    """The least budget with nearly the best token rate (L_m of DistServe, 3.1)."""
    rates = []
    for rung in rungs:
        rates.append(rung / sum(stage.prefill_step_ms([rung]) for stage in stages))
    least = SATURATED_FRAC * max(rates)
    return next(rung for rung, rate in zip(rungs, rates, strict=True) if rate >= least)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetChoice:
    """A token budget with what it was chosen for."""

    limits: BatchLimits = spec("Batch limits with the budget.")
    rule_tokens: int = spec("Largest budget by the step time.", unit="tokens", gt=0)
    rate_rps: float = spec("Goodput with it.", unit="requests/s", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)


def best_chunk_budget(
    evaluator: Evaluator,
    alone: Deployment,
    slo: Slo,
    *,
    policy: Batching = Batching.CHUNKED,
    floor_rps: float = 0.0,
    should_stop: Callable[[], bool] = lambda: False,
) -> BudgetChoice:
    """The token budget with the highest goodput, from Sarathi-Serve's rule on.

    Parameters
    ----------
    evaluator
        Simulates; its problem gives the workload and the engine's limits, whose
        `max_batch_tokens` is the largest budget.
    alone
        A deployment of one replica.
    slo
        The limits it answers for; without one on TPOT the rule allows any budget.
    policy
        How steps are formed.
    floor_rps
        Goodput of interest: a budget that does not reach it counts as 0.
    should_stop
        Asked before every simulation; then no more budgets are tried.

    Returns
    -------
    BudgetChoice
        With a rate of 0 when no budget tried meets `slo` at `floor_rps`.
    """
    planner = evaluator.planner
    engine = planner.problem.engine.limits
    tile = max(TILE_TOKENS, engine.chunk_tile_tokens)
    rungs = ladder(engine.max_batch_tokens, tile)
    rule = rule_tokens(evaluator, alone, slo, rungs)

    def rate_rps(budget: int, floor: float) -> float:
        if should_stop():
            return 0.0
        limits = limits_of_policy(engine, policy, budget)
        system = planner.system(with_limits(planner, alone, limits))
        return evaluator.system_goodput(system, slo, floor_rps=floor).rate_rps

    # 3. Neighbours.
    start = max(i for i, rung in enumerate(rungs) if rung <= rule or i == 0)
    best, rate = climb_ladder(rungs, start, rate_rps, floor_rps)
    # A tight limit on TTFT may want whole prompts, far up the ladder.
    top, floor_rps = rungs[-1], max(floor_rps, rate * LEAD)
    if best < top and floor_rps > 0.0 and rate_rps(top, floor_rps) > 0.0:
        best, rate = climb_ladder(rungs, len(rungs) - 1, rate_rps, floor_rps)
    limits = limits_of_policy(engine, policy, best)
    return BudgetChoice(limits=limits, rule_tokens=rule, rate_rps=rate)


def rule_tokens(
    evaluator: Evaluator, alone: Deployment, slo: Slo, rungs: Sequence[int]
) -> int:
    """The budget to begin with: steps 1 and 2."""
    planner = evaluator.planner
    replica = planner.system(alone).replicas[0]
    if replica.phase is Phase.PREFILL:
        return saturating_budget(replica.stages, rungs)
    if slo.tpot_ms is None:
        return rungs[-1]
    # 1. A full step.
    sample = planner.problem.service.workload.draw(
        _SAMPLE_REQUESTS, seed=evaluator.seed, rate_rps=1.0
    )
    load = StepLoad.of(sample, replica)
    # 2. The largest within the limit.
    tile = max(TILE_TOKENS, planner.problem.engine.limits.chunk_tile_tokens)
    return largest_budget(
        replica.stages, load, slo.tpot_ms, max_tokens=rungs[-1], tile_tokens=tile
    )


def ladder(max_tokens: int, tile_tokens: int = TILE_TOKENS) -> list[int]:
    """Budgets to try, rising: multiples of the tile, and the largest one allowed."""
    rungs = set()
    tiles = list(LADDER)
    while tiles[0] * tile_tokens < max_tokens:
        rungs |= {n * tile_tokens for n in tiles if n * tile_tokens < max_tokens}
        tiles = [2 * n for n in tiles]
    return sorted({*rungs, max_tokens})


def climb_ladder(
    rungs: Sequence[int],
    start: int,
    rate_rps: Callable[[int, float], float],
    floor_rps: float = 0.0,
) -> tuple[int, float]:
    """The best rung on the way up from `start`, or else down, and its rate.

    `rate_rps` answers the rate of a rung, or 0 when it is below a floor. A way ends
    where the rate does not rise; without a floor it goes on over rates of 0.
    """
    best, rate = start, rate_rps(rungs[start], floor_rps)
    for way in (range(start + 1, len(rungs)), range(start - 1, -1, -1)):
        if best != start:
            break
        for rung in way:
            found = rate_rps(rungs[rung], max(floor_rps, rate * LEAD))
            if found > rate:
                best, rate = rung, found
            elif rate > 0.0 or floor_rps > 0.0:
                break
    return rungs[best], rate


def limits_of_policy(
    engine: BatchLimits, policy: Batching, budget_tokens: int | None = None
) -> BatchLimits:
    """An engine's limits under another policy, and with another token budget.

    What the policy would not read is left out.
    """
    budget = budget_tokens or engine.max_batch_tokens
    is_chunked = policy.cuts_prompts
    is_reserved = engine.is_output_reserved or policy.reserves_output
    is_request_level = policy is Batching.REQUEST_LEVEL
    return replace(
        engine,
        policy=policy,
        max_batch_tokens=budget,
        # A step of an engine has a token for each of its requests.
        max_num_seqs=min(engine.max_num_seqs, budget),
        max_step_context_tokens=None,
        chunk_tile_tokens=min(engine.chunk_tile_tokens, budget) if is_chunked else 1,
        max_chunk_tokens=engine.max_chunk_tokens if is_chunked else None,
        max_partial_prompts=engine.max_partial_prompts if is_chunked else None,
        has_chunks_in_turn=engine.has_chunks_in_turn and is_chunked,
        reserved_output_tokens=engine.reserved_output_tokens if is_reserved else None,
        is_batch_padded=engine.is_batch_padded and is_request_level,
    )


def with_limits(planner: Planner, alone: Deployment, limits: BatchLimits) -> Deployment:
    """The deployment with other batch limits, and the KV cache that they leave."""
    return planner.deploy_at(
        [replace(replica.shape, limits=limits) for replica in alone.replicas],
        [replica.stage_gpus for replica in alone.replicas],
        [replica.slice for replica in alone.replicas],
    )
