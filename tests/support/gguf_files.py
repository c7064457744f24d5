"""Real GGUF files of tiny models, written as llama.cpp's convert_hf_to_gguf.py does, by the package it writes with."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from engines import save_tiny
from gguf.constants import MODEL_ARCH_NAMES
from models import DEMO
from transformers import AutoModelForCausalLM, PreTrainedModel

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
"""llama.cpp's types of tokens."""
NOTHING: Mapping[str, Any] = {}
TEXTS = ["Hello there, what is the capital of France?", " two  spaces\n\nand 12 345 tabs\t!", "Grüße, 世界 🤖", ""]


def save_model(directory: Path, family: str, **extra: Any) -> Path:
    """A random model with the demo model's vocabulary and tokenizer."""
    fields = {"vocab_size": 2048, "eos_token_id": 2039, "pad_token_id": 2037, "hidden_size": 64, **extra}
    save_tiny(directory, family, **fields)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (directory / name).write_bytes((Path(DEMO) / name).read_bytes())
    return directory


def write_gguf(
    path: Path, source: Path, kind: str = "F32", without: Collection[str] = (), fields: Mapping[str, Any] = NOTHING
) -> Path:
    """A GGUF of the model in `source`, its matrices of this type, some weights left out.

    `fields` go over the metadata; None takes one out.
    """
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    arch = model.config.model_type
    writer = gguf.GGUFWriter(path, str(fields.get("general.architecture", arch)))
    for key, value in (_shape(model) | _vocabulary(source) | dict(fields)).items():
        if value is not None and key != "general.architecture":
            _add(writer, key.replace("ARCH", arch), value)
    names = gguf.get_tensor_name_map(
        next(number for number, name in MODEL_ARCH_NAMES.items() if name == arch), model.config.num_hidden_layers
    )
    quantized = gguf.GGMLQuantizationType[kind]
    for name, tensor in model.state_dict().items():
        if name in without or (name == "lm_head.weight" and model.config.tie_word_embeddings):
            continue
        stem, _, suffix = name.rpartition(".")
        data = _permuted(name, tensor, model) if arch == "llama" else tensor
        array = data.numpy().astype(np.float32)
        if array.ndim == 1:
            writer.add_tensor(f"{names.get_name(stem)}.{suffix}", array)
        else:
            packed = gguf.quants.quantize(array, quantized)
            writer.add_tensor(f"{names.get_name(stem)}.{suffix}", packed, raw_dtype=quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def _shape(model: PreTrainedModel) -> dict[str, Any]:
    config = model.config
    return {
        "general.name": "tiny",
        "ARCH.context_length": config.max_position_embeddings,
        "ARCH.block_count": config.num_hidden_layers,
        "ARCH.embedding_length": config.hidden_size,
        "ARCH.feed_forward_length": config.intermediate_size,
        "ARCH.attention.head_count": config.num_attention_heads,
        "ARCH.attention.head_count_kv": config.num_key_value_heads,
        "ARCH.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "ARCH.attention.key_length": config.head_dim,
        "ARCH.rope.dimension_count": config.head_dim,
        "ARCH.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "ARCH.vocab_size": config.vocab_size,
    }


def _vocabulary(source: Path) -> dict[str, Any]:
    read = json.loads((source / "tokenizer.json").read_bytes())
    tokens = {index: (token, NORMAL) for token, index in read["model"]["vocab"].items()}
    for added in read["added_tokens"]:
        tokens[added["id"]] = (added["content"], CONTROL if added["special"] else USER_DEFINED)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [tokens[index][0] for index in range(len(tokens))],
        "tokenizer.ggml.token_type": [tokens[index][1] for index in range(len(tokens))],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in read["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": 2039,
        "tokenizer.ggml.padding_token_id": 2037,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": (source / "chat_template.jinja").read_text(),
    }


def sentencepiece_fields() -> dict[str, Any]:
    """A vocabulary as Llama 2's: pieces with scores, bytes for the rest, and nothing said of the token that begins."""
    pieces = [
        "\u2581",
        *"helowrd,",
        "he",
        "ll",
        "hell",
        "hello",
        "\u2581hello",
        "wo",
        "rl",
        "\u2581wo",
        "\u2581world",
        "rld",
    ]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(pieces)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(rank) for rank in range(len(pieces))],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.add_bos_token": None,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": None,
    }


def _permuted(name: str, tensor: torch.Tensor, model: PreTrainedModel) -> torch.Tensor:
    """llama.cpp turns pairs of neighbours, transformers halves: LlamaModel.permute of convert_hf_to_gguf.py."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return tensor
    config = model.config
    num_heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
    halves = tensor.reshape(num_heads, 2, tensor.shape[0] // num_heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)
