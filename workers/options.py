"""What a worker process is told at its start. Imports no torch: the command line reads this too."""

from dataclasses import dataclass
from pathlib import Path

from tokenyard.workers.patience import STEP_S


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """`None` or `auto` leaves the choice to the worker, which says in one log line what it chose."""

    spec: str
    """MODEL_SPEC: see tokenyard.broker.spec. Its engine keys are among the options here already."""
    run_dir: Path
    broker: str | None = None
    """Endpoint of a broker on tcp, perhaps on another box; None: the run directory's."""
    keys: Path | None = None
    """The folder of this box's keys; without, nothing may leave the machine."""
    bind: str | None = None
    """Where fronts get tokens on tcp: `tcp://HOST:PORT`, a range FIRST-LAST, or `*`. None: in the run directory, or,
    with a broker on tcp, at any port of the address by which this box reaches it."""
    advertise: str | None = None
    """HOST or HOST:PORT by which fronts reach that, where it is another."""
    device: str = "auto"
    """auto, cpu or cuda."""
    gpu: int | None = None
    """Sets CUDA_VISIBLE_DEVICES before torch is imported, so that this process can touch no other GPU."""
    dtype: str = "auto"
    max_model_len: int | None = None
    kv_memory: str | None = None
    """Size of the KV pool: `2GiB`, or `40%` of the device's free memory."""
    max_num_seqs: int = 64
    """Sequences that run at once: the worker's credit."""
    max_num_batched_tokens: int = 512
    """Tokens in one step at the most; on a CPU, prompts get as many as running streams can bear (pace.py)."""
    threads: int | None = None
    """CPU threads for torch."""
    eager: bool = False
    """The model as it is: no CUDA graphs, nothing merged or compiled."""
    compile: bool | None = None
    """Whether CPU code is compiled; None: where the model is large enough for it."""
    num_sharers: int = 1
    """Workers that share the device's memory, this one included."""
    late: bool = False
    """Compile while the model serves already."""
    trust_remote_code: bool = False
    """Run modeling code that comes with the model."""
    quantization: str = ""
    """int8, int4, fp8, bnb-8bit or bnb-4bit: weights in fewer bits; empty or off: as they are."""
    speculate: str = ""
    """`ngram:K`: guess up to K tokens in each decode; empty or off: none."""
    step_timeout: float = STEP_S
    """Seconds that a step may last before the engine is taken for hung; its prompts get more (patience.py)."""
    max_loras: int = 0
    """LoRA adapters that may be loaded at once; 0: none."""
    max_lora_rank: int = 16
    """The largest rank of one."""
    secret: bytes | None = None
    """Of the incarnation, as the agent chose it; drawn here where no agent is."""
    log_level: str = "INFO"
