"""Arrays of a unit for its kernel: LLMs with their steps, and requests in order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clusters.fields import InputError, spec
from models.latency.contention import SmSharing, StepDemand
from models.latency.step_table import FloatArray
from planner.multiplexing import unit_state as state
from planner.multiplexing.llm_steps import LlmSteps
from planner.multiplexing.unit_state import Array, World
from planner.workload.requests import Requests

_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Batches whose steps are worked out; parts are interpolated in between."""
_CONTEXTS = (0.5, 1.5)
"""Contexts, over the mean one, between which the parts of a step are linear."""


@dataclass(frozen=True, kw_only=True)
class UnitLlm:
    """One LLM of a unit as it is simulated."""

    service: str = spec("Name of the service.")
    steps: LlmSteps = spec("Its steps on the mesh.")
    input_tokens: float = spec("Mean prompt.", unit="tokens", gt=0)
    context_tokens: float = spec("Mean context of a decode.", unit="tokens", gt=0)
    decode_share_frac: float = spec("SMs of its decode.", unit="1", gt=0, le=1)
    kv_quota_tokens: int = spec("KV cache it may fill.", unit="tokens", gt=0)
    kv_bytes_per_token: float = spec("On a GPU.", unit="bytes/token", gt=0)
    max_num_seqs: int = spec("Requests at a time.", unit="requests", ge=1)
    max_batch_tokens: int = spec("Prompt tokens of a step.", unit="tokens", ge=1)


def build_world(
    llms: Sequence[UnitLlm],
    traffic: Mapping[str, Requests],
    *,
    sharing: SmSharing,
    prefill_share_frac: float,
    shares_space: bool,
    adapt_ms: float | None,
    decodes_only: bool = False,
) -> World:
    """The state of a unit before its first request.

    Parameters
    ----------
    llms
        The LLMs of the unit.
    traffic
        Requests of each service that come to this unit; a service may have none.
    sharing
        How steps that run together share the GPUs.
    prefill_share_frac
        SMs of the prefill in progress.
    shares_space
        Whether steps run side by side; False: one at a time.
    adapt_ms
        Time between adaptations of the quotas; None: they stay.
    decodes_only
        Whether requests come with the KV cache of their prompt and a first token.
    """
    clock = np.zeros(1, dtype=state.CLOCK)
    clock["shares_space"] = shares_space
    clock["decodes_only"] = decodes_only
    clock["adapt_ms"] = np.inf if adapt_ms is None else adapt_ms
    clock["next_adapt_ms"] = clock["adapt_ms"]
    clock["prefill_memory_part"] = sharing.memory_part(prefill_share_frac)
    clock["prefill_arithmetic_part"] = sharing.arithmetic_part(prefill_share_frac)
    prefill = np.zeros(1, dtype=state.PREFILL)
    prefill["llm"] = state.NONE
    request = _requests(llms, traffic)
    if decodes_only:
        request["done_tokens"], request["is_prefilled"] = 1, 1
        request["first_token_ms"] = request["arrival_ms"]
    longest = int((request["input_tokens"] + request["output_tokens"]).max(initial=1))
    return World(
        clock=clock,
        request=request,
        llm=_llms(llms, request, sharing),
        member=np.zeros(sum(each.max_num_seqs for each in llms), dtype=np.int64),
        prefill=prefill,
        decode_step=_decode_steps(llms),
        prefill_knot=_prefill_knots(llms, longest),
        per_square_ms=np.array(
            [each.steps.table.prefill_per_sq_token_ms for each in llms]
        ),
        job_base_ms=np.zeros(len(llms) + 1),
        job_memory_ms=np.zeros(len(llms) + 1),
        job_arithmetic_ms=np.zeros(len(llms) + 1),
    )


def _requests(llms: Sequence[UnitLlm], traffic: Mapping[str, Requests]) -> Array:
    """All requests by arrival; equal times in the order of the LLMs."""
    unknown = sorted(set(traffic) - {each.service for each in llms})
    if unknown:
        raise InputError("traffic", unknown[0], "a service of the unit")
    parts = []
    for index, each in enumerate(llms):
        if each.service not in traffic:
            continue
        given = traffic[each.service]
        part = np.zeros(len(given), dtype=state.REQUEST)
        part["llm"] = index
        for name in ("arrival_ms", "input_tokens", "output_tokens"):
            part[name] = getattr(given, name)
        parts.append(part)
    request = np.concatenate(parts) if parts else np.zeros(0, dtype=state.REQUEST)
    request = request[np.argsort(request["arrival_ms"], kind="stable")]
    for name in ("prefill_start_ms", "first_token_ms", "finish_ms"):
        request[name] = np.nan
    request["next"] = state.NONE
    return request


def _llms(llms: Sequence[UnitLlm], request: Array, sharing: SmSharing) -> Array:
    array = np.zeros(len(llms), dtype=state.LLM)
    first = 0
    for index, each in enumerate(llms):
        row = array[index]
        own = request[request["llm"] == index]
        lengths = own["input_tokens"] + own["output_tokens"]
        served = lengths[lengths <= each.kv_quota_tokens]
        row["quota_tokens"] = each.kv_quota_tokens
        row["least_quota_tokens"] = served.max(initial=1)
        row["bytes_per_token"] = each.kv_bytes_per_token
        row["max_num_seqs"] = each.max_num_seqs
        row["max_batch_tokens"] = each.max_batch_tokens
        row["first_member"] = first
        row["decode_memory_part"] = sharing.memory_part(each.decode_share_frac)
        row["decode_arithmetic_part"] = sharing.arithmetic_part(each.decode_share_frac)
        for name in ("prompt_head", "prompt_tail", "join_head", "join_tail"):
            row[name] = state.NONE
        first += each.max_num_seqs
    return array


def _decode_steps(llms: Sequence[UnitLlm]) -> Array:
    """A row for each LLM, a column for each batch."""
    most = max(each.max_num_seqs for each in llms)
    table = np.zeros((len(llms), most + 1), dtype=state.DECODE_STEP)
    sizes = np.arange(most + 1, dtype=np.float64)
    for index, each in enumerate(llms):
        knots = sorted({*(b for b in _BATCHES if b < each.max_num_seqs), most})
        low, high = (
            _columns(
                [each.steps.decode(b, b * part * each.context_tokens) for b in knots]
            )
            for part in _CONTEXTS
        )
        kv_low, kv_high = (
            np.array(knots) * part * each.context_tokens for part in _CONTEXTS
        )
        for name in low:
            slope = (high[name] - low[name]) / (kv_high - kv_low)
            fixed = low[name] - slope * kv_low
            table[index][f"{name}0"] = np.interp(sizes, knots, fixed)
            table[index][f"{name}1"] = np.interp(sizes, knots, slope)
    return table


def _columns(demands: Sequence[StepDemand]) -> dict[str, FloatArray]:
    names = ("whole", "memory", "arithmetic", "exchange", "least_memory")
    return {
        name: np.array([getattr(demand, f"{name}_ms") for demand in demands])
        for name in (*names, "least_arithmetic")
    }


def _prefill_knots(llms: Sequence[UnitLlm], longest: int) -> Array:
    """A row for each LLM, at the knots of all their tables."""
    most = max(longest, *(each.max_batch_tokens for each in llms))
    knots = {1, 2, most}
    for each in llms:
        knots |= {round(t) for t in each.steps.table.prefill_tokens if 1 <= t < most}
    tokens = sorted(knots)
    table = np.zeros((len(llms), len(tokens)), dtype=state.PREFILL_KNOT)
    table["tokens"] = tokens
    for index, each in enumerate(llms):
        mean = max(1, round(each.input_tokens))
        linear_only = [each.steps.table.prefill_step_ms([t]) for t in tokens]
        square = each.steps.table.prefill_per_sq_token_ms
        table[index]["linear_ms"] = np.array(linear_only) - square * np.square(tokens)
        demands = [each.steps.prefill(_prompts(t, mean)) for t in tokens]
        for name, column in _columns(demands).items():
            table[index][f"{name}_ms"] = column
    return table


def _prompts(tokens: int, mean: int) -> list[int]:
    """Prompts of the mean length, and the rest."""
    whole, rest = divmod(tokens, mean)
    return [mean] * whole + ([rest] if rest else [])
