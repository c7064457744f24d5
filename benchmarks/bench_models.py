"""Models of real shapes with random weights, made once into a cache directory that every server can load.

Weights are drawn on the device, so that 8 billion take seconds on a GPU. The tokenizer is byte-level BPE whose entries
are short strings of letters in order, as many as the model has ids: whatever a random model emits is text.

    python benchmarks/bench_models.py qwen3-60m        prints the directory
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

DEMO = Path(__file__).resolve().parent.parent / "workers" / "demo_model"
COMMON = {"head_dim": 128, "vocab_size": 151_936, "max_position_embeddings": 40_960, "rope_theta": 1e6}
"""Of the published Qwen3 models (their config.json)."""
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-60m": {
        **COMMON,
        "hidden_size": 512,
        "intermediate_size": 2304,  # brings it to 60.3 million
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "vocab_size": 16_384,
        "tie_word_embeddings": True,
    },
    "qwen3-0.6b": {
        **COMMON,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "qwen3-8b": {
        **COMMON,
        "hidden_size": 4096,
        "intermediate_size": 12_288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
}
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPACE = "Ġ"
"""How byte-level BPE writes the space before a word."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def entries() -> Iterator[tuple[str, str]]:
    """Merges without end: all strings of two letters or a space and a letter, then of three, and so on."""
    length = 2
    while True:
        for first, *middle, last in product(SPACE + LETTERS, *[LETTERS] * (length - 1)):
            yield first + "".join(middle), last
        length += 1


def make_tokenizer(vocab_size: int) -> Tokenizer:
    """Exactly `vocab_size` ids, the three special tokens last."""
    special = [PAD, START, END]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: index for index, character in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for head, tail in entries():
        if len(vocab) + len(special) == vocab_size:
            break
        merges.append((head, tail))
        vocab[head + tail] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def write_model(directory: Path, shape: dict[str, Any], device: str = "cpu") -> None:
    """Save a random model of this shape in bfloat16, its tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast, Qwen3Config

    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=make_tokenizer(shape["vocab_size"]), eos_token=END, pad_token=PAD
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(directory)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    with torch.device(device):
        config = Qwen3Config(**shape, **ids)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    model.generation_config = GenerationConfig(do_sample=False, **ids)  # type: ignore[no-untyped-call]
    model.save_pretrained(directory)
    if device != "cpu":
        del model
        torch.cuda.empty_cache()  # who loads it next needs the room


def cache_dir() -> Path:
    """Where models are kept: $TOKENYARD_BENCH_CACHE, or below the user's cache directory."""
    given = os.environ.get("TOKENYARD_BENCH_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "tokenyard" / "bench"


def find_model(model: str, device: str = "cpu") -> str:
    """The directory of `demo` or of a model named in SHAPES, made if it is not there; else the name as it is."""
    if model == "demo":
        return str(DEMO)
    shape = SHAPES.get(model)
    if shape is None:
        return model
    key = hashlib.sha256(json.dumps([shape, TEMPLATE], sort_keys=True).encode()).hexdigest()[:8]
    directory = cache_dir() / key / model
    if not directory.exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        half_done = Path(tempfile.mkdtemp(dir=directory.parent))
        try:
            write_model(half_done, shape, device)
            half_done.rename(directory)
        except BaseException:
            shutil.rmtree(half_done, ignore_errors=True)
            raise
    return str(directory)


def main(
    name: Annotated[str, typer.Argument(help=", ".join(SHAPES))],
    device: Annotated[str, typer.Option(help="Where its weights are drawn.")] = "cpu",
) -> None:
    """Make a model if it is not there yet and print its directory."""
    if name not in SHAPES:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(SHAPES)}")
    typer.echo(find_model(name, device))


if __name__ == "__main__":
    typer.run(main)
