"""The `tokenyard` command: each subcommand imports its own room when it runs, so that `--help` and start-up are quick.

Nothing is decided here. A mistake of the user's is one line on stderr and exit status 2.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from tokenyard.broker.errors import SetupError
from tokenyard.scripts import options, pool_cli, process_cli
from tokenyard.scripts.mcp_cli import mcp_app
from tokenyard.scripts.tie import allow_files, hang_bells, tie_to_parent

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
    host: options.Host = None,
    port: options.Port = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers of each model.")] = None,
    gpus: Annotated[str | None, typer.Option(help="GPUs to use: 0,1", show_default="all")] = None,
    fronts: Annotated[int | None, typer.Option(min=1, help="HTTP processes.", show_default="1")] = None,
    device: options.DeviceKind = options.Device.AUTO,
    dtype: options.Dtype = None,
    max_model_len: options.MaxModelLen = None,
    kv_memory: options.KvMemory = None,
    max_num_seqs: options.MaxNumSeqs = None,
    max_num_batched_tokens: options.MaxNumBatchedTokens = None,
    threads: options.Threads = None,
    eager: options.Eager = None,
    compiling: options.Compile = None,
    speculate: options.Speculate = None,
    trust_remote_code: options.TrustRemoteCode = None,
    quantization: options.Quantization = None,
    step_timeout: options.StepTimeout = None,
    lora: options.Loras = None,
    max_loras: options.MaxLoras = None,
    max_lora_rank: options.MaxLoraRank = None,
    lora_dir: options.LoraDir = None,
    allow_loras: options.AllowLoras = None,
    api_key: options.ApiKeys = None,
    cors_origin: options.CorsOrigins = None,
    tool_format: options.ToolFormats = None,
    allow_models: options.AllowModels = None,
    models_dir: options.ModelsDir = None,
    gpu_share: options.GpuShare = None,
    evict: options.EvictKind = None,
    model_timeout: options.ModelTimeout = None,
    load_timeout: options.LoadTimeout = None,
    standby: options.Standby = None,
    config: options.ConfigFile = None,
    run_dir: options.FreshDir = None,
    store: options.Store = None,
    mcp: options.Mcp = None,
    ssl_certfile: options.CertFile = None,
    ssl_keyfile: options.KeyFile = None,
    max_requests_per_key: options.MaxRequestsPerKey = None,
    bind: options.Bind = None,
    workers_bind: options.WorkersBind = None,
    advertise: options.Advertise = None,
    keys: options.KeyFolder = None,
    drain_timeout: options.DrainTimeout = 30.0,
    log_level: options.LogLevel = options.Level.INFO,
    log_json: options.LogJson = False,
) -> None:
    """Start the whole pool: broker, fronts and workers; restart what dies. SIGTERM drains, Ctrl-C ends at once."""
    from tokenyard.scripts import placement, plan, reach, supervisor
    from tokenyard.scripts.on_demand import OnDemand

    engine = options.engine_options(locals())
    wishes = plan.Wishes(
        specs=models or [],
        num_workers=workers,
        gpus=placement.parse_gpus(gpus),
        device=device,
        engine=engine,
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
    allow_files()
    hang_bells()
    try:
        app()
    except SetupError as error:
        typer.echo(f"tokenyard: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
