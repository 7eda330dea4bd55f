"""TetriInfer's dispatch: the better mix of long and short decodes of two at random.

Reference
    Hu et al., "Inference without Interference: Disaggregate LLM Inference for Mixed
    Downstream Workloads", arXiv 2401.11181, 2024, sections 3.3.2 and 3.4.

Idea
    Long decodes slow each other down, and the short ones beside them. A classifier
    names a bucket of output lengths for each request, and the dispatcher spreads the
    long ones; two choices at random come near the best without looking at everyone.

Steps
    1. Of the decode replicas, those whose promised memory leaves room for the prompt
       and the forecast output; all of them when there is none.
    2. Two of these at random; the one with fewer heavy decodes, at equal numbers fewer
       light ones.

Differences from the paper
    - The forecast is the lower end of the bucket throughout; a decode is heavy when
      that is above `heavy_output_tokens`.
    - There the one with the lower ratio of heavy to light decodes is taken, "to spread
      heavy decodes evenly". A replica with many light ones then attracts all others,
      heavy ones too, which slows more than chance does. Counting the heavy ones spreads
      them. The ratio is there as `DecodeMix.LOWEST_RATIO`; it counts the request itself
      and one light decode more, so that replicas without any compare.
    - Promises are known at once; there the monitor sends the load every 100 ms.
    - At equal mixes the replica that has been promised less memory.
    - Replicas do not change their role here.

The other parts are settings of `BatchLimits`: prompts in windows of 16
(`prompt_order`), prefill-only chunks (`prefill_first_chunked`), and when a decode
replica fetches a request (`decode_admission`).

Assumes   `RouterSettings` with a forecast
Cost      O(decode replicas) a request
Guarantee heuristic
"""

from typing import Any

from planner.simulator.compiled import compiled, inlined, optional
from planner.simulator.promises import forecast_tokens, promised_room
from planner.simulator.state import ANY_SLICE, NONE


@inlined
def is_open(w: Any, replica: int, wanted: int, tokens: int) -> bool:
    """Whether a replica is of the slice, and has `tokens` to promise (0: any has)."""
    if wanted != ANY_SLICE and w.replica[replica].slice != wanted:
        return False
    return bool(tokens == 0 or tokens <= promised_room(w, replica))


@compiled
def num_open(w: Any, candidates: Any, wanted: int, tokens: int) -> int:
    """Number of the candidates that are open."""
    num = 0
    for replica in candidates:
        if is_open(w, replica, wanted, tokens):
            num += 1
    return num


@compiled
def open_at(w: Any, candidates: Any, wanted: int, tokens: int, place: int) -> int:
    """The candidate at `place` among those that are open."""
    for replica in candidates:
        if is_open(w, replica, wanted, tokens):
            if place == 0:
                return int(replica)
            place -= 1
    return NONE


@compiled
def is_better_mix(w: Any, one: int, two: int, request: int) -> bool:
    """Whether `two` is the better of two replicas for `request`."""
    clock = w.clock[0]
    a, b = w.replica[one], w.replica[two]
    if clock.takes_ratio:
        is_heavy = int(w.request[request].expected_output > clock.heavy_output)
        light = 2 - is_heavy
        mine = (a.num_heavy + is_heavy) * (b.num_light + light)
        other = (b.num_heavy + is_heavy) * (a.num_light + light)
        if mine != other:
            return bool(other < mine)
    elif a.num_heavy != b.num_heavy:
        return bool(b.num_heavy < a.num_heavy)
    elif a.num_light != b.num_light:
        return bool(b.num_light < a.num_light)
    return bool(promised_room(w, two) > promised_room(w, one))


@optional
def choose_by_mix(w: Any, candidates: Any, wanted: int, request: int, dice: int) -> int:
    """Decode replica of a slice for `request`; NONE when the slice has none."""
    # 1. Those with room.
    tokens = forecast_tokens(w, request)
    num = num_open(w, candidates, wanted, tokens)
    if num == 0:
        tokens = 0
        num = num_open(w, candidates, wanted, tokens)
    if num == 0:
        return NONE
    # 2. The better of two.
    first = open_at(w, candidates, wanted, tokens, dice % num)
    if num == 1:
        return int(first)
    place = (dice // num) % (num - 1)
    place += int(place >= dice % num)
    second = open_at(w, candidates, wanted, tokens, place)
    return int(second if is_better_mix(w, first, second, request) else first)
