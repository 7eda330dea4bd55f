"""Plan from Python: what a relaxed TPOT limit does to the rate of a GPU.

Run it with `python examples/plan_api.py`.
"""

from planner import (
    Cluster,
    Goal,
    LlmSpec,
    MaxRuntime,
    Objective,
    Problem,
    SearchSpace,
    Service,
    Slo,
    Workload,
    explain,
    solve,
)


def problem_with(tpot_ms: float) -> Problem:
    """Llama-3.1-8B for chat on one DistServe-sized node, at one TPOT limit."""
    return Problem(
        cluster=Cluster.load("a100_1x4"),
        services=(
            Service(
                llm=LlmSpec.load("llama-3.1-8b"),
                workload=Workload.poisson(rate_rps=8.0, lengths="chat"),
                slo=Slo(ttft_ms=400, tpot_ms=tpot_ms, attainment_frac=0.9),
            ),
        ),
        objective=Objective(goal=Goal.MAX_GOODPUT_PER_GPU),
        search=SearchSpace(max_pp=1),
    )


def main() -> None:
    """Plan for two limits, and look closer at the last plan."""
    for tpot_ms in (15, 40):
        result = solve(problem_with(tpot_ms), stop=MaxRuntime(60), seed=0)
        print(f"--- TPOT <= {tpot_ms} ms")
        print(result)
        if result.best is not None:
            print(explain(result.best).bottleneck)


if __name__ == "__main__":
    main()
