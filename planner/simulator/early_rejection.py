"""Early rejection: requests that are bound to miss their limits are refused on arrival.

Reference
    Qin et al., "Mooncake: A KVCache-centric Disaggregated Architecture for LLM
    Serving", arXiv 2407.00079, sections 7.2 to 7.4.

Idea
    Under overload some requests have to go, and a prompt that is prefilled and then
    refused by the decode phase was computed for nothing. So both phases are asked at
    the arrival. The decode load at that moment misleads: prompts admitted while it is
    low reach it together, one prefill later, and the phases are busy in turn. The load
    at the end of the prefill is what counts.

Steps
    1. Load of the prefill phase: the expected TTFT over its limit.
    2. Load of the decode phase, rule `current`: the time of a step of the decodes under
       way over its limit, mean of the decode replicas.
    3. Rule `predicted`: every decode is taken to last t_d. The decodes at the expected
       end of this prefill are those begun in the t_d before it, and the prompts still
       in prefill that are expected to end in it; shared evenly by the decode replicas.
    4. A request is refused when either load exceeds one.

Differences from the paper
    - The limits are on the means that step tables give; the paper leaves open how the
      time between tokens is predicted.

Assumes   nothing of output lengths: t_d is a setting
Cost      O(log decodes + prompts in prefill + replicas) a request
Guarantee none
"""

import math
from typing import Any

from planner.simulator.compiled import compiled, inlined, optional
from planner.simulator.state import ADMIT_ALL, ADMIT_BY_CURRENT, NONE


@optional
def is_refused(w: Any, request: int) -> bool:
    """Step 4: whether a request, of which the TTFT is forecast, is not let in."""
    rule = w.early_rejection[0]
    if rule.rule == ADMIT_ALL or w.forecast[request].is_let_in:
        return False
    if w.forecast[request].ttft_ms > rule.ttft_ms:
        return True
    decoders = w.decode_replicas[: w.clock[0].num_decodes]
    if decoders.shape[0] == 0:
        decoders = w.prefill_replicas[: w.clock[0].num_prefills]
        if w.replica[decoders[0]].decodes == 0:
            return False
    if rule.rule == ADMIT_BY_CURRENT:
        return bool(current_tbt_ms(w, decoders, request) > rule.tbt_ms)
    return bool(predicted_tbt_ms(w, decoders, request) > rule.tbt_ms)


@inlined
def current_tbt_ms(w: Any, decoders: Any, request: int) -> float:
    """Step 2: mean time of a step with the request beside the decodes under way."""
    tokens = w.request[request].input_tokens
    total = 0.0
    for replica in decoders:
        rep = w.replica[replica]
        total += step_ms(w, replica, rep.num_running + 1, rep.work_tokens + tokens)
    return float(total / decoders.shape[0])


@inlined
def predicted_tbt_ms(w: Any, decoders: Any, request: int) -> float:
    """Step 3: mean time of a step at the expected end of the request's prefill."""
    rule = w.early_rejection[0]
    end = w.clock[0].now_ms + w.forecast[request].ttft_ms
    begin = end - rule.decode_ms
    count = 1
    tokens = float(w.request[request].input_tokens)
    first = first_start_after(w, begin)
    count += rule.num_starts - first
    tokens += rule.started_tokens
    if first > 0:
        tokens -= w.decode_start[first - 1].tokens
    other = rule.head
    while other != NONE:
        forecast = w.forecast[other]
        if begin < forecast.first_token_ms <= end:
            count += 1
            tokens += w.request[other].input_tokens
        other = forecast.next
    num = decoders.shape[0]
    batch = (count + num - 1) // num
    total = 0.0
    for replica in decoders:
        total += step_ms(w, replica, batch, tokens / num)
    return float(total / num)


@compiled
def first_start_after(w: Any, time_ms: float) -> int:
    """The first decode, in order of start, that began after `time_ms`."""
    low, high = 0, w.early_rejection[0].num_starts
    while low < high:
        middle = (low + high) >> 1
        if w.decode_start[middle].time_ms > time_ms:
            high = middle
        else:
            low = middle + 1
    return int(low)


@compiled
def step_ms(w: Any, replica: int, batch: int, tokens: float) -> float:
    """Time between tokens of a batch that is shared by the stages of a pipeline."""
    rep = w.replica[replica]
    share = (batch + rep.num_stages - 1) // rep.num_stages
    share = min(share, rep.max_num_seqs)
    total = 0.0
    for stage in range(rep.first_stage, rep.first_stage + rep.num_stages):
        row = w.batch[w.stage[stage].table, share]
        total += row.fixed_ms + row.slope_ms * tokens / rep.num_stages
    return total


@optional
def expect_decode(w: Any, request: int) -> None:
    """A request is let in: its first token is expected."""
    rule = w.early_rejection[0]
    if rule.rule == ADMIT_ALL:
        return
    forecast = w.forecast[request]
    forecast.is_let_in = 1
    forecast.first_token_ms = w.clock[0].now_ms + forecast.ttft_ms
    forecast.previous = NONE
    forecast.next = rule.head
    if rule.head != NONE:
        w.forecast[rule.head].previous = request
    rule.head = request


@compiled
def expect_no_more(w: Any, request: int) -> None:
    """Take a request out of those of which the first token is expected, if it is."""
    rule = w.early_rejection[0]
    forecast = w.forecast[request]
    if math.isnan(forecast.first_token_ms):
        return
    if forecast.previous == NONE:
        rule.head = forecast.next
    else:
        w.forecast[forecast.previous].next = forecast.next
    if forecast.next != NONE:
        w.forecast[forecast.next].previous = forecast.previous
    forecast.first_token_ms = math.nan


@optional
def begin_decode(w: Any, request: int) -> None:
    """The first token is there: from expected to begun.

    A request that is computed again has begun already.
    """
    rule = w.early_rejection[0]
    if rule.rule == ADMIT_ALL or math.isnan(w.forecast[request].first_token_ms):
        return
    expect_no_more(w, request)
    if not math.isnan(w.request[request].first_token_ms):
        return
    rule.started_tokens += w.request[request].input_tokens
    start = w.decode_start[rule.num_starts]
    start.time_ms = w.clock[0].now_ms
    start.tokens = rule.started_tokens
    rule.num_starts += 1
