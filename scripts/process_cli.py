"""The subcommands that run one of a pool's processes alone; each imports its own room when it runs."""

from typing import Annotated

import typer

from tokenyard.broker.config import default_run_dir
from tokenyard.broker.spec import parse_spec
from tokenyard.scripts import options
from tokenyard.scripts.tie import SECRET


def broker(
    run_dir: options.RunDir = None,
    queue_limit: options.QueueLimit = None,
    evict: options.EvictKind = None,
    model_timeout: options.ModelTimeout = None,
    load_timeout: options.LoadTimeout = None,
    lora: options.Loras = None,
    bind: options.Bind = None,
    keys: options.KeyFolder = None,
    log_level: options.LogLevel = options.Level.INFO,
    log_json: options.LogJson = False,
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
            policy=policy._replace(patience_s=0.0) if evict is options.Evict.BUSY else policy,
            adapters=offered(lora or []),
            bind=bind,
            keys=keys,
            log_level=log_level.upper(),
        )
    )


def worker(
    model: Annotated[str, typer.Argument(metavar="MODEL_SPEC", help="Hub name or directory.")],
    run_dir: options.RunDir = None,
    device: options.DeviceKind = options.Device.AUTO,
    gpu: Annotated[int | None, typer.Option(min=0, help="The one GPU that this worker may touch.")] = None,
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
    max_loras: options.MaxLoras = None,
    max_lora_rank: options.MaxLoraRank = None,
    broker: options.Broker = None,
    bind: options.WorkersBind = None,
    advertise: options.Advertise = None,
    keys: options.KeyFolder = None,
    secret: Annotated[
        str | None, typer.Option(hidden=True, envvar=SECRET, help="What its incarnation is made of, in hex.")
    ] = None,
    share: Annotated[int, typer.Option(min=1, hidden=True, help="Workers that share the device.")] = 1,
    late: Annotated[bool, typer.Option("--late", hidden=True, help="Serve first, compile then.")] = False,
    log_level: options.LogLevel = options.Level.INFO,
    log_json: options.LogJson = False,
) -> None:
    """Run one worker alone: one process, one device, one model."""
    from tokenyard.workers.main import run
    from tokenyard.workers.options import WorkerOptions

    engine = options.engine_options(locals())
    run(
        WorkerOptions(
            spec=model,
            run_dir=run_dir or default_run_dir(),
            device=device,
            gpu=gpu,
            broker=broker,
            bind=bind,
            advertise=advertise,
            keys=keys,
            late=late,
            num_sharers=share,
            log_level=log_level.upper(),
            secret=bytes.fromhex(secret) if secret else None,
            **{**engine, **parse_spec(model).engine},
        )
    )


def front(
    run_dir: options.RunDir = None,
    broker: options.Broker = None,
    keys: options.KeyFolder = None,
    host: options.Host = None,
    port: options.Port = None,
    api_key: options.ApiKeys = None,
    cors_origin: options.CorsOrigins = None,
    tool_format: options.ToolFormats = None,
    allow_models: options.AllowModels = None,
    models_dir: options.ModelsDir = None,
    lora: options.Loras = None,
    lora_dir: options.LoraDir = None,
    allow_loras: options.AllowLoras = None,
    named: Annotated[list[str] | None, typer.Option(hidden=True, help="MODEL_SPEC named at start.")] = None,
    trust_remote_code: options.TrustRemoteCode = None,
    dtype: Annotated[str | None, typer.Option(hidden=True, help="Of models that do not say.")] = None,
    quantization: Annotated[str | None, typer.Option(hidden=True, help="Of models that do not say.")] = None,
    config: options.ConfigFile = None,
    fd: Annotated[int | None, typer.Option(hidden=True, help="A listening socket handed down.")] = None,
    index: Annotated[int, typer.Option(hidden=True, help="Which of several, for the log.")] = 0,
    store: options.Store = None,
    mcp: options.Mcp = None,
    ssl_certfile: options.CertFile = None,
    ssl_keyfile: options.KeyFile = None,
    max_requests_per_key: options.MaxRequestsPerKey = None,
    load_timeout: options.LoadTimeout = None,
    drain_timeout: options.DrainTimeout = 30.0,
    log_level: options.LogLevel = options.Level.INFO,
    log_json: options.LogJson = False,
) -> None:
    """Run one HTTP front alone."""
    from tokenyard.http.keys import KeyRing
    from tokenyard.http.main import run
    from tokenyard.http.options import FrontOptions
    from tokenyard.scripts.loras import offered
    from tokenyard.scripts.on_demand import OnDemand
    from tokenyard.scripts.plan import Wishes, make_plan
    from tokenyard.scripts.reach import Reach

    engine = {"dtype": dtype, "quantization": quantization, "trust_remote_code": trust_remote_code}
    wishes = Wishes(
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
        engine={key: value for key, value in engine.items() if value},
        store=store,
        mcp=mcp,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        max_requests_per_key=max_requests_per_key,
        on_demand=OnDemand(load_timeout_s=load_timeout),
        reach=Reach(broker=broker, keys=keys),
    )
    plan = make_plan(wishes, config)
    run(
        FrontOptions(
            run_dir=run_dir or default_run_dir(),
            broker=plan.reach.broker,
            keys=plan.reach.keys,
            host=plan.host,
            port=plan.port,
            fd=fd,
            index=index,
            api_keys=KeyRing(plan.api_keys),
            cors_origins=tuple(plan.cors_origins),
            tool_formats=tuple(plan.tool_formats),
            models=plan.policy,
            loras=plan.lora_policy._replace(given=offered(lora or []) or tuple(plan.loras)),
            store=plan.store,
            mcp=plan.mcp,
            ssl_certfile=plan.tls[0] if plan.tls else None,
            ssl_keyfile=plan.tls[-1] if plan.tls else None,
            max_requests_per_key=plan.max_requests_per_key,
            load_timeout_s=plan.loading.load_timeout_s,
            drain_s=drain_timeout,
            log_level=log_level.upper(),
        )
    )


def agent(
    config: options.ConfigFile = None,
    run_dir: options.RunDir = None,
    broker: options.Broker = None,
    workers_bind: options.WorkersBind = None,
    advertise: options.Advertise = None,
    keys: options.KeyFolder = None,
    drain_timeout: options.DrainTimeout = 30.0,
    log_level: options.LogLevel = options.Level.INFO,
    log_json: options.LogJson = False,
) -> None:
    """Start and restart this box's workers, for a broker that runs elsewhere."""
    from tokenyard.scripts import plan, reach, supervisor

    where = reach.Reach(broker=broker, workers_bind=workers_bind, advertise=advertise, keys=keys)
    wishes = plan.Wishes(default=None, reach=where, drain_timeout_s=drain_timeout, log_level=log_level)
    raise typer.Exit(supervisor.agent(plan.make_plan(wishes, config), run_dir or default_run_dir()))


COMMANDS = (broker, worker, front, agent)
