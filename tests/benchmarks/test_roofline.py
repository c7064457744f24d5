"""What a step must do is counted from a model's shape."""

import pytest
import roofline
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from tokenyard.workers.compiled import CompiledBody

LAYER = 8 * 16 * 2 + 8 * 8 * 2 + 3 * 8 * 24 + 4 * 2 + 8 * 2
"""q and o, k and v, the MLP, q and k norms, the two norms: weights of a layer of SHAPE."""
SHAPE = {
    "vocab_size": 100,
    "hidden_size": 8,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
}
FINAL_NORM = 8
TABLE = 100 * 8


@pytest.mark.parametrize("tied", [True, False])
def test_work_of_a_model(tied: bool) -> None:
    model = Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=tied)).to(torch.bfloat16)
    work = roofline.work_of(model)
    assert work.num_weights == 2 * LAYER + FINAL_NORM
    assert work.num_head_weights == TABLE
    assert work.weight_bytes == 2 * (work.num_weights + TABLE)  # an untied embedding is looked up, not read
    assert work.kv_bytes == 2 * 2 * (2 * 4) * 2
    assert work.attention_width == 2 * 4 * 4


def test_a_compiled_model_is_counted_as_it_was() -> None:
    model = Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=True)).to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    wanted = roofline.work_of(model)
    assert roofline.untuned(model) is model
    model.model = CompiledBody(model.model, 2)
    assert roofline.work_of(roofline.untuned(model)) == wanted


def test_steps_cost_weights_once_and_context_for_each_sequence() -> None:
    work = roofline.Work(weight_bytes=1000, num_weights=400, num_head_weights=100, kv_bytes=6, attention_width=10)
    assert work.decode_bytes(3, 50) == 1000 + 3 * 50 * 6
    assert work.decode_flop(3, 50) == 3 * (2 * 500 + 4 * 50 * 10)
    assert work.prefill_flop(20) == 20 * 2 * 400 + 2 * 100 + 4 * 20 * 20 / 2 * 10


def test_a_device_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(roofline.COPY_BYTES, "cpu", 4 << 20)
    monkeypatch.setitem(roofline.MATRIX_SIZE, "cpu", 64)
    found = roofline.measure_device("cpu", "float32", 1)
    assert 1e7 < found.bytes_per_s < 1e13
    assert 1e6 < found.flop_per_s < 1e15
