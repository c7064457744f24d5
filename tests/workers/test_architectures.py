"""Every architecture on its lane: tiny random models made from their configs give the streams of transformers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from engines import LEFT_OUT, Bench, greedy, job_of, prompt_of, run, run_one, save_tiny

from tokenyard.broker.params import Params
from tokenyard.workers.plain import Prefill

LENGTHS = (1, 17, 60)
"""One token, just over a block, and several chunks of a step; all beyond the windows below but the first."""
COUNT = 12
WINDOW = 24
SEEDED = Params(max_tokens=COUNT, temperature=0.8, top_k=50, seed=11)
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}
LINEAR = {
    "num_hidden_layers": 4,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}


@dataclass(frozen=True)
class Case:
    """One architecture and what its config needs beyond engines.SHAPE."""

    family: str
    extra: dict[str, Any] = field(default_factory=dict)
    prefill: Prefill | None = None
    """How the plain lane runs it; None: it is paged."""
    slow: bool = False
    """Left out of the quick loop: a close relative of another case, or of those in test_engine.py."""
    name: str = ""


PAGED = [
    Case("qwen2"),
    Case("qwen3", slow=True),
    Case("llama", slow=True),
    Case("mistral", {"sliding_window": WINDOW}, slow=True),
    Case("gemma2", {"sliding_window": WINDOW, "query_pre_attn_scalar": 8}),  # softcap, every other layer has a window
    Case("gemma3_text", {"sliding_window": WINDOW, "query_pre_attn_scalar": 8, "num_hidden_layers": 6}, slow=True),
    Case(  # the last two layers read the keys of the first two; head sizes differ by layer
        "gemma4_text",
        {
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 211,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "sliding_window": WINDOW,
            "global_head_dim": 16,
        },
    ),
    Case("phi3", slow=True),
    Case("gpt2"),  # absolute positions
    Case("gpt_neox", slow=True),
    Case("opt", {"word_embed_proj_dim": 32, "ffn_dim": 64}),
    Case("qwen3_moe", EXPERTS),
    Case("mixtral", {"num_local_experts": 4}, slow=True),
    Case("gpt_oss", {"sliding_window": WINDOW, "num_local_experts": 4, "rope_parameters": DEFAULT_ROPE}),  # sinks
    Case("deepseek_v3", LATENT),  # values are narrower than keys
    Case("starcoder2", slow=True),
    Case("olmo", slow=True),
    Case("olmo2", slow=True),
    Case("cohere", slow=True),
    Case("cohere2", {"sliding_window": WINDOW, "num_hidden_layers": 4}),
    Case("glm"),
    Case("glm4", slow=True),
    Case("llama4_text", {"num_local_experts": 2}, name="llama4_text within one chunk"),
]
PLAIN = [
    Case("mamba", prefill=Prefill.WHOLE),
    Case(
        "mamba2",
        {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8, "chunk_size": 16},
        Prefill.CHUNKS,
    ),
    Case(
        "qwen3_next",
        {**LINEAR, **EXPERTS, "shared_expert_intermediate_size": 16},
        Prefill.CHUNKS,
    ),
    Case("qwen3_5_text", LINEAR, Prefill.CHUNKS, slow=True),
    Case(
        "jamba",
        {
            "num_hidden_layers": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "num_experts": 2,
            "mamba_d_state": 8,
            "mamba_dt_rank": 8,
            "use_mamba_kernels": False,
        },
        Prefill.WHOLE,
    ),
    Case("lfm2", {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]}, Prefill.CHUNKS),
    Case("recurrent_gemma", {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": WINDOW}, Prefill.ANEW),
    Case(
        "bamba",
        {"num_hidden_layers": 3, "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8},
        Prefill.CHUNKS,
        slow=True,
    ),
    Case(
        "falcon_h1",
        {
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 16,
        },
        Prefill.CHUNKS,
        slow=True,
    ),
    Case("minimax", {"num_local_experts": 2, "block_size": 16}, Prefill.CHUNKS),  # takes its own cache only
    # These keep keys and values only, but:
    Case("bloom", prefill=Prefill.CHUNKS),  # biases scores by distance, in its own attention
    Case("falcon", {"head_dim": LEFT_OUT}, Prefill.CHUNKS),  # chooses among attention classes of its own
    Case(  # turns all positions by other angles once the longest in the batch is beyond the original length
        "phi3",
        {
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 4,
                "long_factor": [4.0] * 4,
                "original_max_position_embeddings": 32,
            },
            "original_max_position_embeddings": 32,
        },
        Prefill.WHOLE,
        name="phi3 with longrope",
    ),
    Case("stablelm", prefill=Prefill.CHUNKS),  # hands no keywords on to its attention
    Case("diffllama", prefill=Prefill.CHUNKS),  # doubles heads around its attention
    Case("roberta", {"is_decoder": True, "pad_token_id": 1}, Prefill.CHUNKS),  # its positions begin at 2
    Case("openai-gpt", prefill=Prefill.ANEW),  # has no cache at all
    Case("rwkv", {"attention_hidden_size": 32}, Prefill.CHUNKS),
    Case(  # attends within chunks, and scales queries by positions that it counts itself
        "llama4_text",
        {"num_local_experts": 2, "attention_chunk_size": 16, "num_hidden_layers": 4},
        Prefill.CHUNKS,
        name="llama4_text over chunks",
    ),
]
CASES = [
    pytest.param(one, id=one.name or one.family, marks=[pytest.mark.slow] if one.slow else []) for one in PAGED + PLAIN
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")  # modeling code warns of this and that
def test_streams_are_those_of_transformers(case: Case, tmp_path: Path) -> None:
    bench = Bench.load(save_tiny(tmp_path, case.family, **case.extra))
    verdict = bench.loaded.verdict
    assert bench.loaded.card.lane == verdict.lane == ("plain" if case.prefill else "paged")
    assert case.prefill in (None, verdict.way.prefill)
    alone = run_one(bench.engine(), prompt_of(LENGTHS[-1]), greedy(COUNT))
    bench.reference.check_greedy(prompt_of(LENGTHS[-1]), alone.ids)

    engine = bench.engine(max_num_seqs=4, max_batch_tokens=32)
    jobs = {number: (prompt_of(length), greedy(COUNT)) for number, length in enumerate(LENGTHS)}
    jobs[len(LENGTHS)] = (prompt_of(33), SEEDED)
    for number, (prompt, params) in jobs.items():
        engine.add(job_of(number), prompt, [], params)
    streams = run(engine)
    for number, (prompt, params) in jobs.items():
        bench.reference.check(prompt, streams[job_of(number)].ids, params)
    rest = run_one(bench.engine(), prompt_of(33), SEEDED, emitted=streams[job_of(len(LENGTHS))].ids[:5])
    bench.reference.check(prompt_of(33), streams[job_of(len(LENGTHS))].ids[:5] + rest.ids, SEEDED)
    assert len({token for stream in streams.values() for token in stream.ids}) > 5, "too dull to show a mistake"
