"""`phaseplan profile endpoint`, `collectives`, `import`: other things to measure."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from clusters.fields import InputError
from planner.cli.output import QuietOption, say
from planner.cli.profile import DeviceOption, ModelArgument, app, open_device
from planner.cli.progress import progress
from planner.errors import PlannerError

RecordsOption = Annotated[
    Path, typer.Option("--records", "-r", help="File to append records to.")
]
GpuName = Annotated[str, typer.Option("--gpu", help="GPU type the server runs on.")]
TpOption = Annotated[int, typer.Option(min=1, help="Its tensor parallelism.")]
EngineOption = Annotated[str, typer.Option(help="The server: vllm, sglang, ...")]


@app.command()
def endpoint(
    url: Annotated[str, typer.Argument(help="Base URL, e.g. http://host:8000/v1.")],
    model: ModelArgument,
    gpu: GpuName,
    records: RecordsOption = Path("endpoint.jsonl"),
    served_name: Annotated[
        str | None, typer.Option(help="Name of the model on the server.")
    ] = None,
    tp: TpOption = 1,
    engine: EngineOption = "openai",
    prompt_tokens: Annotated[
        str, typer.Option(help="Prompts to prefill, one at a time.")
    ] = "64,256,1024,2048,4096",
    concurrency: Annotated[
        str, typer.Option(help="Requests that decode together.")
    ] = "1,4,16,64",
    contexts: Annotated[
        str, typer.Option(help="Prompt lengths of the decodes.")
    ] = "128,2048",
    answer_tokens: Annotated[int, typer.Option(min=4, help="Length of answers.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Times a prompt is asked.")] = 5,
    read_limit: Annotated[
        float, typer.Option(min=0.01, help="Longest silence of the server, in s.")
    ] = 30.0,
    answer_limit: Annotated[
        float, typer.Option(min=0.01, help="Longest time of an answer, in s.")
    ] = 120.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the prompts.")] = 0,
    quiet: QuietOption = False,
) -> None:
    """Measure a live OpenAI-compatible server from outside, as its users see it.

    OPENAI_API_KEY is sent where it is set.
    """
    import numpy as np

    from models.llm import LlmSpec
    from models.profile_records import Environment
    from models.profile_table import RecordWriter
    from planner.cli.profile_subjects import whole_numbers
    from profiler.endpoint import EndpointSettings, profile_endpoint
    from profiler.streaming import Endpoint

    llm = LlmSpec.load(model)
    server = Endpoint(
        url=url,
        model=served_name or llm.name,
        api_key=os.environ.get("OPENAI_API_KEY"),
        read_limit_s=read_limit,
        answer_limit_s=answer_limit,
    )
    environment = Environment(
        device="endpoint", device_name=url, gpu=gpu, engine=engine
    )
    settings = EndpointSettings(
        prompt_tokens=whole_numbers(prompt_tokens, "--prompt-tokens"),
        concurrencies=whole_numbers(concurrency, "--concurrency"),
        contexts=whole_numbers(contexts, "--contexts"),
        answer_tokens=answer_tokens,
        num_repeats=repeats,
    )
    with RecordWriter(records) as writer, progress(quiet=quiet) as show:
        try:
            found = profile_endpoint(
                server,
                llm,
                environment,
                tp=tp,
                settings=settings,
                rng=np.random.default_rng(seed),
                progress=show,
                keep=writer.append,
            )
        except InputError as error:
            # The command was fine: it is the server that does not answer.
            raise PlannerError(str(error)) from None
    failed = [record for record in found if record.step is None]
    for record in failed:
        say(f"{record.point.describe()}: {record.note}", label="warning", quiet=quiet)
    say(f"{records}: {len(found) - len(failed)} of {len(found)} points", quiet=quiet)


@app.command()
def collectives(
    records: RecordsOption = Path("collectives.jsonl"),
    processes: Annotated[
        int, typer.Option("--processes", "-n", min=2, help="Processes on this host.")
    ] = 2,
    device: DeviceOption = "cuda",
    samples: Annotated[
        int, typer.Option(min=6, help="Runs of each operation and size.")
    ] = 15,
    sizes: Annotated[
        str | None,
        typer.Option("--bytes", help="Message sizes; default: 1 KiB to 256 MiB."),
    ] = None,
    max_s: Annotated[
        float, typer.Option("--max-seconds", min=1.0, help="Longest time for it all.")
    ] = 600.0,
    quiet: QuietOption = False,
) -> None:
    """Measure collectives between the GPUs (or processes) of this host.

    For several hosts start `torchrun ... -m profiler.collectives` on each, with
    `--links` for the links between them (see `phaseplan profile links`).
    """
    from planner.cli.profile_subjects import whole_numbers

    chosen = () if sizes is None else whole_numbers(sizes, "--bytes")
    open_device(device)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(processes), "-m", "profiler.collectives"),
        *("--out", str(records), "--device", device.partition(":")[0]),
        *("--samples", str(samples)),
        *(("--bytes", *map(str, chosen)) if chosen else ()),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=max_s
        )
    except subprocess.TimeoutExpired:
        raise PlannerError(f"collectives did not end within {max_s:g} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "Error" in line]
        why = lines[-1].strip() if lines else f"exit code {done.returncode}"
        raise PlannerError(f"collectives failed: {why}")
    say(f"{records}: written", quiet=quiet)


@app.command("import")
def import_results(
    results: Annotated[Path, typer.Argument(help="`vllm bench serve` or AIPerf JSON.")],
    model: ModelArgument,
    gpu: GpuName,
    records: RecordsOption = Path("imported.jsonl"),
    tp: TpOption = 1,
    engine: EngineOption = "vllm",
    quiet: QuietOption = False,
) -> None:
    """Turn a benchmark's result file into records, appended to those there.

    A file gives one decode point at its mean load, and a prefill point if requests were
    alone. Several files make a profile: import them all, then `profile fit`.
    """
    from models.llm import LlmSpec
    from models.profile_records import Environment
    from models.profile_table import RecordWriter
    from profiler.bench_results import read_bench_results

    environment = Environment(
        device="endpoint", device_name="benchmark results", gpu=gpu, engine=engine
    )
    found = read_bench_results(results, LlmSpec.load(model), environment, tp=tp)
    with RecordWriter(records) as writer:
        for record in found:
            writer.append(record)
    say(f"{records}: {len(found)} points", quiet=quiet)
