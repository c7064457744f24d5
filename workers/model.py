"""Loads a model, decides what it may use of the device, and describes it in a Card.

Every causal language model of transformers is served by its own unmodified code, on the lane that verdict.py finds for
it; what is none is refused here, with words. Must not know of sequences or steps.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import ModelSpec
from tokenyard.broker.wire import Card
from tokenyard.workers import attention
from tokenyard.workers.attention import Attends
from tokenyard.workers.checkpoint import Checkpoint
from tokenyard.workers.download import Stages
from tokenyard.workers.failures import explained
from tokenyard.workers.graphs import buckets, num_rows
from tokenyard.workers.kv import LayerShape
from tokenyard.workers.late import LateCompile
from tokenyard.workers.memory import StepBytes, plan_memory, step_bytes
from tokenyard.workers.patience import STEP_S
from tokenyard.workers.plain import PlainModel
from tokenyard.workers.pooling import Pooling, read_pooling
from tokenyard.workers.quantization import is_quantized, quantize
from tokenyard.workers.rack import Rack
from tokenyard.workers.tuning import tune
from tokenyard.workers.verdict import Tried, Verdict, decide

LENGTH_NAMES = ("max_position_embeddings", "max_seq_len", "context_length", "seq_length")
"""Where configs name the context length."""
UNBOUNDED_LENGTH = 32_768
"""For models without one (Mamba, ALiBi), unless --max-model-len says otherwise: beyond what they were trained on."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class EngineOptions(NamedTuple):
    """How much one worker takes on at once."""

    block_size: int = 16
    """Tokens in a KV block: vLLM's default; small enough that a shared prefix loses little."""
    max_num_seqs: int = 64
    """Sequences that run at once."""
    max_batch_tokens: int = 512
    """Tokens computed in one step at the most, decodes and prefill chunks together: it bounds how long a step takes."""
    kv_memory: str = ""
    """`1GiB` or `40%` of what is free; empty: the default of memory.py."""
    num_sharers: int = 1
    """Workers that share the device's memory, this one included."""
    max_model_len: int | None = None
    """Lowers the context length."""
    num_drafts: int = 0
    """Tokens guessed at the most in each decode; 0: no speculation."""
    eager: bool = False
    """The model as it is: no CUDA graphs, nothing merged or compiled."""
    compile: bool | None = None
    """Whether CPU code is compiled; None: where the model is large enough for it."""
    late: bool = False
    """Compile, or record graphs, while the model serves already (late.py)."""
    trust_remote_code: bool = False
    """Run modeling code that comes with the model."""
    quantization: str = ""
    """How weights are made smaller at load: one of quantization.WAYS; empty: not at all."""
    step_timeout_s: float = STEP_S
    """What a step may last before the engine is taken for hung, beside the time that its tokens get (patience.py)."""
    max_loras: int = 0
    """LoRA adapters that may be loaded at once; 0: the model's layers stay as they are."""
    max_lora_rank: int = 16
    """The largest rank of one: vLLM's default."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on its device, checked, with its share of memory decided."""

    card: Card
    model: PreTrainedModel
    verdict: Verdict
    num_blocks: int
    num_seqs: int
    """Sequences whose states its memory holds."""
    dtype: torch.dtype
    device: torch.device
    pooling: Pooling
    rack: Rack | None = None
    """Where adapters come; None: there can be none."""
    late: LateCompile | None = None
    """To be started by whoever serves it."""
    graph_bytes: int = 0
    """Of the device's memory, kept for what CUDA graphs share."""

    @property
    def shapes(self) -> list[LayerShape]:
        """What each layer of a paged model keeps of a token."""
        return self.verdict.shapes

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, logit_rows: torch.Tensor, step: Attends
    ) -> torch.Tensor:
        """Logits [R, V] at `logit_rows` [R] of the packed tokens [1, T]."""
        return attention.forward(self.model, input_ids, position_ids, logit_rows, step)


def load_model(
    spec: ModelSpec,
    device: str,
    dtype: str,
    options: EngineOptions,
    on_progress: Callable[[float], None] = lambda _: None,
) -> LoadedModel:
    """Load, check and size one model; `on_progress` hears fractions of the whole. Raises SetupError that names it."""
    _refuse_impossible(options)
    try:
        return _load(spec, device, dtype, options, on_progress)
    except SetupError as error:
        raise SetupError(f"model {spec.source}: {error}") from error


def _load(
    spec: ModelSpec, device: str, dtype: str, options: EngineOptions, on_progress: Callable[[float], None]
) -> LoadedModel:
    place, stages = torch.device(device), Stages(on_progress)
    stages.load(0.0)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # on_progress tells instead
    checkpoint = Checkpoint(spec, options.trust_remote_code, stages.download)
    with explained(checkpoint.directory):
        pooling = read_pooling(checkpoint.directory, "mean" if checkpoint.is_encoder else "last")
    context_length = _context_length(checkpoint.text_config, options.max_model_len)
    chosen = _dtype(dtype, place, checkpoint.text_config)
    stages.load(0.05)
    model = _read_model(checkpoint, place, chosen, options.quantization)
    stages.load(0.8)
    version = checkpoint.commit + checkpoint.source.file + options.quantization
    if checkpoint.is_encoder:
        verdict = Verdict("encoder")
        context_length = _encoder_length(model, min(context_length, pooling.max_length or context_length))
    else:
        verdict = decide(model, version, context_length, options.block_size)
    has_rack = options.max_loras > 0 and not checkpoint.is_encoder
    rack = Rack(options.max_loras, options.max_lora_rank, chosen, place) if has_rack else None
    late = _improve(model, verdict, version, rack, options)
    stages.load(0.95)
    step = _step_bytes(model, verdict, rack, options)
    budget = plan_memory(
        verdict.token_bytes(chosen),
        place,
        block_size=options.block_size,
        context_length=context_length,
        max_num_seqs=options.max_num_seqs,
        kv_memory=options.kv_memory,
        num_sharers=options.num_sharers,
        step=step.total,
        sequence_bytes=verdict.footprint.sequence_bytes,
    )
    generation: GenerationConfig | None = getattr(model, "generation_config", None)  # custom code may have none
    card = Card(
        names=spec.called,
        source=checkpoint.source.name,
        commit=checkpoint.commit,
        context_length=context_length,
        pool_tokens=budget.num_blocks * options.block_size,
        block_size=options.block_size,
        lane=verdict.lane,
        dtype="+".join(
            filter(None, (str(chosen).removeprefix("torch."), checkpoint.source.file, options.quantization))
        ),
        device=str(place),
        vocab_size=checkpoint.text_config.vocab_size,
        eos_token_ids=_eos_token_ids(generation, checkpoint),
        generation_config=_generation_defaults(generation),
        created=int(time.time()),
        revision=spec.revision or "",
        file=checkpoint.source.file,
    )
    stages.load(1.0)
    return LoadedModel(card, model, verdict, *budget, chosen, place, pooling, rack, late, step.graphs)


def _read_model(checkpoint: Checkpoint, place: torch.device, dtype: torch.dtype, quantization: str) -> PreTrainedModel:
    """The checkpoint's model on its device, not to be trained."""
    packed = quantize(quantization, place, dtype, checkpoint.config)
    model: Any = checkpoint.read_weights(dtype=dtype, **packed)
    checkpoint.make_tokenizer()
    model.requires_grad_(False).eval()
    if "device_map" not in packed:
        model.to(place)
    return cast(PreTrainedModel, model)


def _improve(
    model: PreTrainedModel, verdict: Verdict, version: str, rack: Rack | None, options: EngineOptions
) -> LateCompile | None:
    """Make the model quicker, and ready for adapters; what is left to do once it serves."""
    fit = partial(rack.fit, model, partial(_logits, model, verdict)) if rack else None
    if verdict.lane != "paged" or options.eager or is_quantized(model):
        if fit:
            fit()
        return None
    # a rack holds the adapters of the engine's step, which a forward beside it would disturb
    is_late = options.late and rack is None
    tried = Tried(model, version, options.block_size)
    return tune(model, verdict.shapes, options.block_size, options.compile, tried, fit, is_late)


def _step_bytes(model: PreTrainedModel, verdict: Verdict, rack: Rack | None, options: EngineOptions) -> StepBytes:
    """What this worker's steps take."""
    if verdict.lane == "encoder":
        return StepBytes()
    plain = PlainModel(model, verdict.way) if verdict.lane == "plain" else None
    most_rows = num_rows(options.max_num_seqs, options.num_drafts)
    num_graphs = len(buckets(most_rows)) if verdict.lane == "paged" and not options.eager else 0
    num_graphs *= 2 if rack else 1  # with adapters and without
    return step_bytes(model, options.max_batch_tokens, most_rows, plain, num_graphs)


def _logits(model: PreTrainedModel, verdict: Verdict, num_tokens: int) -> torch.Tensor:
    """Of so many tokens that might be any, on its lane; on the plain one also of one more, which may go another way."""
    if verdict.lane == "plain":
        plain = PlainModel(model, verdict.way)
        row, state = plain.forward(list(range(num_tokens)), 0, None)
        return row if state is None else plain.forward([0], num_tokens, state)[0]
    ids = torch.arange(num_tokens, device=model.device)
    return attention.forward(model, ids.unsqueeze(0), ids.unsqueeze(0), ids, attention.Probe())


def _refuse_impossible(options: EngineOptions) -> None:
    if options.max_num_seqs < 1:
        raise SetupError(f"--max-num-seqs {options.max_num_seqs}: at least 1 sequence must run")
    if options.max_batch_tokens < options.max_num_seqs:
        raise SetupError(
            f"--max-num-batched-tokens {options.max_batch_tokens}: a step must hold one token of each of "
            f"{options.max_num_seqs} sequences (--max-num-seqs)"
        )
    if options.max_loras < 0 or options.max_lora_rank < 1:
        raise SetupError("--max-loras must be 0 or more, and --max-lora-rank at least 1")


def _encoder_length(model: PreTrainedModel, most: int) -> int:
    """RoBERTa and its like leave out the positions up to their padding's."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding) and module.padding_idx:
            most = min(most, module.num_embeddings - module.padding_idx - 1)
    return most


def _context_length(config: PreTrainedConfig, wanted: int | None) -> int:
    longest = next((getattr(config, name) for name in LENGTH_NAMES if getattr(config, name, None)), None)
    if wanted is None:
        return int(longest or UNBOUNDED_LENGTH)
    if wanted < 2 or (longest is not None and wanted > longest):
        raise SetupError(f"--max-model-len {wanted}: the model's own context length is {longest}")
    return wanted


def _dtype(wanted: str, device: torch.device, config: PreTrainedConfig) -> torch.dtype:
    """`auto` is the checkpoint's own type, and float32 on CPU (docs/performance.md, "Which dtype")."""
    if wanted == "auto":
        own = config.dtype if isinstance(config.dtype, torch.dtype) else torch.bfloat16
        return torch.float32 if device.type == "cpu" else own
    chosen = DTYPES.get(wanted)
    if chosen is None:
        raise SetupError(f"--dtype {wanted}: choose one of auto, {', '.join(DTYPES)}")
    return chosen


def _eos_token_ids(generation: GenerationConfig | None, checkpoint: Checkpoint) -> list[int]:
    eos = generation.eos_token_id if generation is not None else None
    if eos is None:
        eos = getattr(checkpoint.text_config, "eos_token_id", None)
    ids = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
    if checkpoint.header is not None:
        ids += [one for one in checkpoint.header.end_ids if one not in ids]
    # some configs name ids that no logit stands for
    return [one for one in ids if 0 <= one < checkpoint.text_config.vocab_size]


def _generation_defaults(generation: GenerationConfig | None) -> dict[str, Any]:
    """What the model's generation_config sets; the front applies it where a request is silent."""
    if generation is None:
        return {}
    # As plain data: watermarks and the like are objects. A frame holds no numbers that JSON has none of.
    defaults = json.loads(generation.to_json_string(), parse_constant=lambda name: None)
    return {key: value for key, value in defaults.items() if key not in ("transformers_version", "_from_model_config")}
