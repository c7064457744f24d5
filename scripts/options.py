"""The options that several subcommands of `tokenyard` share."""

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tokenyard.broker.errors import SetupError
from tokenyard.broker.logs import JSON_VARIABLE
from tokenyard.broker.spec import OPTIONS, check_option


class Device(StrEnum):
    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


class Evict(StrEnum):
    IDLE = "idle"
    BUSY = "busy"


class Level(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


RunDir = Annotated[
    Path | None,
    typer.Option(help="Directory of the pool's sockets.", envvar="TOKENYARD_RUN_DIR", show_default="one per user"),
]
PoolDir = Annotated[
    Path | None,
    typer.Option(help="Directory of the pool's sockets.", envvar="TOKENYARD_RUN_DIR", show_default="of the last serve"),
]
FreshDir = Annotated[
    Path | None,
    typer.Option(help="Directory of the pool's sockets.", envvar="TOKENYARD_RUN_DIR", show_default="a private one"),
]
Broker = Annotated[
    str | None,
    typer.Option(metavar="tcp://HOST:PORT", help="The broker, on another box.", show_default="in the run directory"),
]
KeyFolder = Annotated[
    Path | None,
    typer.Option(
        "--keys", metavar="DIR", help="This box's keys (`tokenyard keys`), for tcp.", envvar="TOKENYARD_KEYS",
        show_default="none: tcp on loopback only",
    ),
]  # fmt: skip
Bind = Annotated[
    str | None,
    typer.Option(metavar="tcp://HOST:PORT", help="Let other boxes in here.", show_default="this box alone"),
]
WorkersBind = Annotated[
    str | None,
    typer.Option(
        metavar="tcp://HOST:PORTS",
        help="Where workers listen for fronts on other boxes; PORTS: *, or FIRST-LAST.",
        show_default="with --broker, this box's address",
    ),
]
Advertise = Annotated[
    str | None, typer.Option(metavar="HOST[:PORT]", help="How fronts reach workers here.", show_default="as bound")
]
LogLevel = Annotated[Level, typer.Option()]
Host = Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="0: any free one.", show_default="8000")]
ApiKeys = Annotated[
    list[str] | None,
    typer.Option("--api-key", envvar="TOKENYARD_API_KEY", help="Key that clients must send; may be repeated."),
]
CorsOrigins = Annotated[
    list[str] | None,
    typer.Option("--cors-origin", help="Origin whose pages may call; may be repeated.", show_default="any"),
]
ToolFormats = Annotated[
    list[str] | None,
    typer.Option(
        "--tool-format",
        help="Format of tool calls, of all models or as MODEL=FORMAT; may be repeated.",
        show_default="as each model's template tells",
    ),
]
DeviceKind = Annotated[Device, typer.Option()]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")]
MaxModelLen = Annotated[int | None, typer.Option(min=1, help="Longest context, in tokens.", show_default="the model's")]
KvMemory = Annotated[
    str | None, typer.Option(help="Size of each worker's KV pool: 2GiB, or 40% of free device memory.")
]
MaxNumSeqs = Annotated[int | None, typer.Option(min=1, help="Sequences that run at once in a worker.")]
MaxNumBatchedTokens = Annotated[int | None, typer.Option(min=1, help="Tokens in one engine step at the most.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads of each worker.", show_default="its share of the usable cores but one"),
]
Eager = Annotated[
    bool | None,
    typer.Option("--eager/--no-eager", help="The model as it is: no CUDA graphs, nothing merged or compiled."),
]
Compile = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Compile CPU code.", show_default="for models of 64 MiB and more"),
]
TrustRemoteCode = Annotated[
    bool | None,
    typer.Option("--trust-remote-code/--no-trust-remote-code", help="Run Python code that comes with a model."),
]
Speculate = Annotated[
    str | None, typer.Option(help="ngram:K: guess up to K tokens from the text so far.", show_default="off")
]
Quantization = Annotated[
    str | None, typer.Option(help="Weights in fewer bits: int8, int4, fp8, bnb-8bit or bnb-4bit.", show_default="off")
]
StepTimeout = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Seconds after which a step, beside what its prompts may take, means a hung engine.",
        show_default="60",
    ),
]
Mcp = Annotated[
    Path | None,
    typer.Option(metavar="mcp.json", help="MCP servers whose tools models may call here.", show_default="none"),
]
Store = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|off", help="File that keeps responses.", show_default="responses.db in the run directory"
    ),
]
QueueLimit = Annotated[
    int | None, typer.Option(min=0, help="Jobs that may wait for a worker; more are a 429.", show_default="1024")
]
DrainTimeout = Annotated[float, typer.Option(min=0, help="Seconds that SIGTERM gives to running streams.")]
AllowModels = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-models",
        metavar="PATTERNS|any|cached|none",
        help="Hub names that requests may ask for: 'Qwen/*,meta-llama/*'; cached: those in the local Hub cache.",
        show_default="cached without a MODEL_SPEC on loopback, else none",
    ),
]
ModelsDir = Annotated[
    Path | None, typer.Option(help="Directory whose models requests may ask for by name.", show_default="none")
]
Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="NAME,source=PATH_OR_HUB_ID,base=MODEL",
        help="LoRA adapter, asked for by its name; may be repeated.",
        show_default="none",
    ),
]
LoraDir = Annotated[
    Path | None, typer.Option(help="Directory whose LoRA adapters requests may have loaded.", show_default="none")
]
AllowLoras = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERNS|any", help="Hub names of LoRA adapters that requests may have loaded.", show_default="none"
    ),
]
MaxLoras = Annotated[
    int | None, typer.Option(min=0, help="LoRA adapters loaded at once.", show_default="as many as --lora names")
]
MaxLoraRank = Annotated[int | None, typer.Option(min=1, help="Their largest rank.", show_default="16")]
GpuShare = Annotated[
    int | None, typer.Option(min=1, help="Models that may share a device, each with its part.", show_default="1")
]
EvictKind = Annotated[
    Evict | None,
    typer.Option(help="When a busy model makes room for a wanted one: busy: at once.", show_default="idle: after 10 s"),
]
ModelTimeout = Annotated[
    int | None,
    typer.Option(min=0, help="Idle seconds after which a model loaded on demand is unloaded.", show_default="300"),
]
LoadTimeout = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Seconds that a request waits for its model in all, and that a load may go without progress.",
        show_default="600",
    ),
]
Standby = Annotated[
    bool | None,
    typer.Option(
        "--standby/--no-standby",
        help="Keep a process ready on each device for the next model.",
        show_default="where models are loaded on demand",
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="tokenyard.toml with models, workers and front.")]
CertFile = Annotated[
    Path | None, typer.Option("--ssl-certfile", help="Certificate chain in PEM: serve https.", show_default="http")
]
KeyFile = Annotated[
    Path | None, typer.Option("--ssl-keyfile", help="Its private key.", show_default="in the certificate's file")
]
MaxRequestsPerKey = Annotated[
    int | None,
    typer.Option(min=1, help="Requests of one API key at once, in each front.", show_default="no limit"),
]


def _log_as_json(given: bool) -> None:
    """Through the environment, so that the processes below do the same."""
    if given:
        os.environ[JSON_VARIABLE] = "1"


LogJson = Annotated[
    bool, typer.Option("--log-json", help="Log one JSON object a line.", callback=_log_as_json, show_default="text")
]


def engine_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's options among a subcommand's arguments, as far as they are given. Raises SetupError."""
    given = {"compile": given["compiling"], **given}
    engine = {key: given[key] for key in OPTIONS if given[key] is not None}
    for key, value in engine.items():
        try:
            check_option(key, value)
        except SetupError as error:
            raise SetupError(f"--{key.replace('_', '-')}: {error}") from error
    return engine
