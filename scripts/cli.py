"""The `tokenyard` command: each subcommand imports its own room when it runs, so that `--help` and start-up are quick.

Nothing is decided here. A mistake of the user's is one line on stderr and exit status 2.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from tokenyard.broker.errors import SetupError
from tokenyard.scripts import pool_cli, process_cli
from tokenyard.scripts.mcp_cli import mcp_app
from tokenyard.scripts.options import (
    Advertise,
    AllowLoras,
    AllowModels,
    ApiKeys,
    Bind,
    CertFile,
    Compile,
    ConfigFile,
    CorsOrigins,
    Device,
    DeviceKind,
    DrainTimeout,
    Dtype,
    Eager,
    EvictKind,
    FreshDir,
    GpuShare,
    Host,
    KeyFile,
    KeyFolder,
    KvMemory,
    Level,
    LoadTimeout,
    LogJson,
    LogLevel,
    LoraDir,
    Loras,
    MaxLoraRank,
    MaxLoras,
    MaxModelLen,
    MaxNumBatchedTokens,
    MaxNumSeqs,
    MaxRequestsPerKey,
    Mcp,
    ModelsDir,
    ModelTimeout,
    Port,
    Quantization,
    Speculate,
    Standby,
    StepTimeout,
    Store,
    Threads,
    ToolFormats,
    TrustRemoteCode,
    WorkersBind,
)
from tokenyard.scripts.tie import hang_bells, tie_to_parent

app = typer.Typer(
    help="Serve transformers language models to OpenAI-compatible clients from a pool of worker processes.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def serve(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL_SPEC", help="Hub name or directory; none: the demo model.")
    ] = None,
    host: Host = None,
    port: Port = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers of each model.")] = None,
    gpus: Annotated[str | None, typer.Option(help="GPUs to use: 0,1", show_default="all")] = None,
    fronts: Annotated[int | None, typer.Option(min=1, help="HTTP processes.", show_default="1")] = None,
    device: DeviceKind = Device.AUTO,
    dtype: Dtype = None,
    max_model_len: MaxModelLen = None,
    kv_memory: KvMemory = None,
    max_num_seqs: MaxNumSeqs = None,
    max_num_batched_tokens: MaxNumBatchedTokens = None,
    threads: Threads = None,
    eager: Eager = None,
    compiling: Compile = None,
    speculate: Speculate = None,
    trust_remote_code: TrustRemoteCode = None,
    quantization: Quantization = None,
    step_timeout: StepTimeout = None,
    lora: Loras = None,
    max_loras: MaxLoras = None,
    max_lora_rank: MaxLoraRank = None,
    lora_dir: LoraDir = None,
    allow_loras: AllowLoras = None,
    api_key: ApiKeys = None,
    cors_origin: CorsOrigins = None,
    tool_format: ToolFormats = None,
    allow_models: AllowModels = None,
    models_dir: ModelsDir = None,
    gpu_share: GpuShare = None,
    evict: EvictKind = None,
    model_timeout: ModelTimeout = None,
    load_timeout: LoadTimeout = None,
    standby: Standby = None,
    config: ConfigFile = None,
    run_dir: FreshDir = None,
    store: Store = None,
    mcp: Mcp = None,
    ssl_certfile: CertFile = None,
    ssl_keyfile: KeyFile = None,
    max_requests_per_key: MaxRequestsPerKey = None,
    bind: Bind = None,
    workers_bind: WorkersBind = None,
    advertise: Advertise = None,
    keys: KeyFolder = None,
    drain_timeout: DrainTimeout = 30.0,
    log_level: LogLevel = Level.INFO,
    log_json: LogJson = False,
) -> None:
    """Start the whole pool: broker, fronts and workers; restart what dies. SIGTERM drains, Ctrl-C ends at once."""
    from tokenyard.scripts import placement, plan, reach, supervisor
    from tokenyard.scripts.on_demand import OnDemand

    engine = {
        "dtype": dtype,
        "max_model_len": max_model_len,
        "kv_memory": kv_memory,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "threads": threads,
        "eager": eager,
        "compile": compiling,
        "speculate": speculate,
        "trust_remote_code": trust_remote_code,
        "quantization": quantization,
        "step_timeout": step_timeout,
        "max_loras": max_loras,
        "max_lora_rank": max_lora_rank,
    }
    wishes = plan.Wishes(
        specs=models or [],
        num_workers=workers,
        gpus=placement.parse_gpus(gpus),
        device=device,
        engine={key: value for key, value in engine.items() if value is not None},
        host=host,
        port=port,
        num_fronts=fronts,
        api_keys=api_key or [],
        cors_origins=cors_origin or [],
        tool_formats=tool_format or [],
        allow_models=allow_models or [],
        models_dir=models_dir,
        loras=lora or [],
        lora_dir=lora_dir,
        allow_loras=allow_loras or [],
        on_demand=OnDemand(gpu_share, evict, model_timeout, load_timeout, standby),
        store=store,
        mcp=mcp,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        max_requests_per_key=max_requests_per_key,
        reach=reach.Reach(bind=bind, workers_bind=workers_bind, advertise=advertise, keys=keys),
        drain_timeout_s=drain_timeout,
        log_level=log_level,
    )
    raise typer.Exit(supervisor.serve(plan.make_plan(wishes, config), run_dir))


for run_alone in process_cli.COMMANDS:
    app.command()(run_alone)


@app.command(hidden=True)
def standby(gpu: Annotated[int | None, typer.Option(min=0)] = None) -> None:
    """Wait, with all imported, for the arguments of a worker, as one line of JSON on stdin; then be that worker."""
    from tokenyard.workers.standby import wait_for_arguments

    if arguments := wait_for_arguments(gpu):
        app(arguments)


@app.command("fleet-plan", hidden=True)
def fleet_plan(config: Path, run_dir: Path) -> None:
    """Print one line for each process of FLEET.toml: its name, a tab and its arguments, quoted for a shell."""
    from tokenyard.scripts import plan

    for name, arguments in plan.fleet_commands(config, run_dir):
        typer.echo(f"{name}\t{arguments}")


for look_after in pool_cli.COMMANDS:
    app.command()(look_after)
app.add_typer(mcp_app, name="mcp")


@app.command()
def version() -> None:
    """Print the version."""
    from importlib import metadata

    typer.echo(metadata.version("tokenyard"))


def main() -> None:
    """The `tokenyard` console command."""
    tie_to_parent()
    hang_bells()
    try:
        app()
    except SetupError as error:
        typer.echo(f"tokenyard: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
