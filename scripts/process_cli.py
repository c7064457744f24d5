"""The subcommands that run one of a pool's processes alone; each imports its own room when it runs."""

from typing import Annotated, Any

import typer

from tokenyard.broker.config import default_run_dir
from tokenyard.broker.spec import parse_spec
from tokenyard.scripts.options import (
    Advertise,
    AllowLoras,
    AllowModels,
    ApiKeys,
    Bind,
    Broker,
    CertFile,
    Compile,
    ConfigFile,
    CorsOrigins,
    Device,
    DeviceKind,
    DrainTimeout,
    Dtype,
    Eager,
    Evict,
    EvictKind,
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
    QueueLimit,
    RunDir,
    Speculate,
    StepTimeout,
    Store,
    Threads,
    ToolFormats,
    TrustRemoteCode,
    WorkersBind,
)


def broker(
    run_dir: RunDir = None,
    queue_limit: QueueLimit = None,
    evict: EvictKind = None,
    model_timeout: ModelTimeout = None,
    load_timeout: LoadTimeout = None,
    lora: Loras = None,
    bind: Bind = None,
    keys: KeyFolder = None,
    log_level: LogLevel = Level.INFO,
    log_json: LogJson = False,
) -> None:
    """Run a broker alone."""
    from tokenyard.broker.core import LOAD_TIMEOUT_S, QUEUE_LIMIT
    from tokenyard.broker.main import BrokerOptions, run
    from tokenyard.broker.room import DEFAULT_POLICY
    from tokenyard.scripts.loras import offered

    policy = DEFAULT_POLICY
    if model_timeout is not None:
        policy = policy._replace(idle_timeout_s=model_timeout)
    run(
        BrokerOptions(
            run_dir or default_run_dir(),
            queue_limit=QUEUE_LIMIT if queue_limit is None else queue_limit,
            load_timeout_s=load_timeout or LOAD_TIMEOUT_S,
            policy=policy._replace(patience_s=0.0) if evict is Evict.BUSY else policy,
            adapters=offered(lora or []),
            bind=bind,
            keys=keys,
            log_level=log_level.upper(),
        )
    )


def worker(
    model: Annotated[str, typer.Argument(metavar="MODEL_SPEC", help="Hub name or directory.")],
    run_dir: RunDir = None,
    device: DeviceKind = Device.AUTO,
    gpu: Annotated[int | None, typer.Option(min=0, help="The one GPU that this worker may touch.")] = None,
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
    max_loras: MaxLoras = None,
    max_lora_rank: MaxLoraRank = None,
    broker: Broker = None,
    bind: WorkersBind = None,
    advertise: Advertise = None,
    keys: KeyFolder = None,
    inc: Annotated[str | None, typer.Option(hidden=True, help="Incarnation, in hex.")] = None,
    share: Annotated[int, typer.Option(min=1, hidden=True, help="Workers that share the device.")] = 1,
    late: Annotated[bool, typer.Option("--late", hidden=True, help="Serve first, compile then.")] = False,
    log_level: LogLevel = Level.INFO,
    log_json: LogJson = False,
) -> None:
    """Run one worker alone: one process, one device, one model."""
    from tokenyard.workers.main import run
    from tokenyard.workers.options import WorkerOptions

    given = {
        "gpu": gpu,
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
        "broker": broker,
        "bind": bind,
        "advertise": advertise,
        "keys": keys,
        "inc": bytes.fromhex(inc) if inc else None,
        "late": late,
        "num_sharers": share,
    }
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    options |= parse_spec(model).engine
    run_dir = run_dir or default_run_dir()
    run(WorkerOptions(spec=model, run_dir=run_dir, device=device, log_level=log_level.upper(), **options))


def front(
    run_dir: RunDir = None,
    broker: Broker = None,
    keys: KeyFolder = None,
    host: Host = None,
    port: Port = None,
    api_key: ApiKeys = None,
    cors_origin: CorsOrigins = None,
    tool_format: ToolFormats = None,
    allow_models: AllowModels = None,
    models_dir: ModelsDir = None,
    lora: Loras = None,
    lora_dir: LoraDir = None,
    allow_loras: AllowLoras = None,
    named: Annotated[list[str] | None, typer.Option(hidden=True, help="MODEL_SPEC named at start.")] = None,
    trust_remote_code: TrustRemoteCode = None,
    config: ConfigFile = None,
    fd: Annotated[int | None, typer.Option(hidden=True, help="A listening socket handed down.")] = None,
    index: Annotated[int, typer.Option(hidden=True, help="Which of several, for the log.")] = 0,
    store: Store = None,
    mcp: Mcp = None,
    ssl_certfile: CertFile = None,
    ssl_keyfile: KeyFile = None,
    max_requests_per_key: MaxRequestsPerKey = None,
    load_timeout: LoadTimeout = None,
    drain_timeout: DrainTimeout = 30.0,
    log_level: LogLevel = Level.INFO,
    log_json: LogJson = False,
) -> None:
    """Run one HTTP front alone."""
    from tokenyard.http.keys import KeyRing
    from tokenyard.http.main import FrontOptions, run
    from tokenyard.scripts import plan, reach
    from tokenyard.scripts.loras import offered
    from tokenyard.scripts.on_demand import OnDemand

    given = plan.Wishes(
        specs=named or [],
        default=None,
        host=host,
        port=port,
        api_keys=api_key or [],
        cors_origins=cors_origin or [],
        tool_formats=tool_format or [],
        allow_models=allow_models or [],
        models_dir=models_dir,
        lora_dir=lora_dir,
        allow_loras=allow_loras or [],
        engine={"trust_remote_code": True} if trust_remote_code else {},
        store=store,
        mcp=mcp,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        max_requests_per_key=max_requests_per_key,
        on_demand=OnDemand(load_timeout_s=load_timeout),
        reach=reach.Reach(broker=broker, keys=keys),
    )
    wishes = plan.make_plan(given, config)
    run(
        FrontOptions(
            run_dir=run_dir or default_run_dir(),
            broker=wishes.reach.broker,
            keys=wishes.reach.keys,
            host=wishes.host,
            port=wishes.port,
            fd=fd,
            index=index,
            api_keys=KeyRing(wishes.api_keys),
            cors_origins=tuple(wishes.cors_origins),
            tool_formats=tuple(wishes.tool_formats),
            models=wishes.policy,
            loras=wishes.lora_policy._replace(given=offered(lora or []) or tuple(wishes.loras)),
            store=wishes.store,
            mcp=wishes.mcp,
            ssl_certfile=wishes.tls[0] if wishes.tls else None,
            ssl_keyfile=wishes.tls[-1] if wishes.tls else None,
            max_requests_per_key=wishes.max_requests_per_key,
            load_timeout_s=wishes.loading.load_timeout_s,
            drain_s=drain_timeout,
            log_level=log_level.upper(),
        )
    )


def agent(
    config: ConfigFile = None,
    run_dir: RunDir = None,
    broker: Broker = None,
    workers_bind: WorkersBind = None,
    advertise: Advertise = None,
    keys: KeyFolder = None,
    drain_timeout: DrainTimeout = 30.0,
    log_level: LogLevel = Level.INFO,
    log_json: LogJson = False,
) -> None:
    """Start and restart this box's workers, for a broker that runs elsewhere."""
    from tokenyard.scripts import plan, reach, supervisor

    where = reach.Reach(broker=broker, workers_bind=workers_bind, advertise=advertise, keys=keys)
    wishes = plan.Wishes(default=None, reach=where, drain_timeout_s=drain_timeout, log_level=log_level)
    raise typer.Exit(supervisor.agent(plan.make_plan(wishes, config), run_dir or default_run_dir()))


COMMANDS = (broker, worker, front, agent)
