"""From the settings of routing and admission to the arrays of the kernel."""

from planner.simulator import state
from planner.simulator.control import (
    DecodeAdmission,
    DecodeMix,
    Forecast,
    PromptOrder,
    dice,
    expected_outputs,
)
from planner.simulator.state import Array
from planner.simulator.system import Routing, ServingSystem

_ROUTINGS = {
    Routing.CACHE_AWARE: state.CACHE_AWARE,
    Routing.ROUND_ROBIN: state.ROUND_ROBIN,
    Routing.SHORTEST_QUEUE: state.SHORTEST_QUEUE,
    Routing.PENDING_TOKENS: state.PENDING_TOKENS,
    Routing.RANDOM: state.RANDOM,
    Routing.POWER_OF_TWO: state.POWER_OF_TWO,
    Routing.TETRIINFER: state.TETRIINFER,
    Routing.SPLITWISE: state.SPLITWISE,
    Routing.FLOW_SHARES: state.FLOW_SHARES,
}

_ORDERS = {
    PromptOrder.FCFS: state.FCFS,
    PromptOrder.SHORTEST_FIRST: state.SHORTEST_FIRST,
    PromptOrder.LONGEST_FIRST: state.LONGEST_FIRST,
}

_ADMISSIONS = {
    DecodeAdmission.GREEDY: state.GREEDY,
    DecodeAdmission.RESERVE_STATIC: state.RESERVE_STATIC,
    DecodeAdmission.RESERVE_DYNAMIC: state.RESERVE_DYNAMIC,
}


def fill_control(
    clock: Array, request: Array, replica: Array, system: ServingSystem
) -> None:
    """Policies, limits, forecasts and dice."""
    clock["routing"] = _ROUTINGS[system.routing]
    if _ROUTINGS[system.routing] >= state.TETRIINFER and not system.is_split:
        clock["routing"] = state.SHORTEST_QUEUE
    if system.routing is Routing.FLOW_SHARES and system.replica_shares() is None:
        clock["routing"] = state.SHORTEST_QUEUE
    clock["heavy_output"] = system.router.heavy_output_tokens
    clock["takes_ratio"] = system.router.decode_mix is DecodeMix.LOWEST_RATIO
    clock["max_pending"] = system.router.max_pending_tokens
    limits = [given.limits for given in system.replicas]
    replica["prompt_order"] = [_ORDERS[each.prompt_order] for each in limits]
    replica["prompt_window"] = [each.prompt_window for each in limits]
    replica["decode_admission"] = [_ADMISSIONS[e.decode_admission] for e in limits]
    forecast = system.router.forecast
    if forecast is None:
        is_bucket = system.routing is Routing.TETRIINFER
        forecast = Forecast.BUCKETS if is_bucket else Forecast.MEAN
    expected = expected_outputs(request["output_tokens"], system.router, forecast)
    request["expected_output"] = expected
    if system.routing is not Routing.ROUND_ROBIN:
        request["dice"] = dice(len(request), system.router)
