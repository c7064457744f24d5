"""Steps packed for Triton's kernels give the reference's streams: chunked prompts, decodes beside them, prefixes."""

from dataclasses import replace

import pytest
import torch
from engines import Bench, Streams, greedy, job_of, prompt_of, run, step
from pages import BLOCK, DEVICE, TOLERANCE, plain_attention

from tokenyard.broker.params import Params
from tokenyard.workers import packed_step
from tokenyard.workers.attention import Flavour
from tokenyard.workers.engine import Engine
from tokenyard.workers.kv import KVPool, LayerShape
from tokenyard.workers.lane import Logits
from tokenyard.workers.model import EngineOptions, LoadedModel
from tokenyard.workers.paged import PagedLane
from tokenyard.workers.scheduler import Chunk, Plan, Sequence
from tokenyard.workers.triton_write import write


class TritonLane(PagedLane):
    """The paged lane as it is where Triton compiles."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self.pool = KVPool(model.shapes, model.num_blocks, model.card.block_size, model.dtype, model.device, write)

    def run(self, plan: Plan) -> Logits:
        batch = packed_step.pack(plan, self.pool, self._model.device)
        rows = self._model.forward(batch.input_ids, batch.position_ids, batch.logit_rows, batch.step)
        return Logits(batch.sampled, rows)


@pytest.mark.parametrize("bench", ["llama", "mistral"], indirect=True)
def test_streams_are_the_reference(bench: Bench) -> None:
    model = replace(bench.loaded, num_blocks=40)
    engine = Engine(model, EngineOptions(max_num_seqs=4, max_batch_tokens=24), TritonLane(model))
    prompts = [prompt_of(5), prompt_of(30), prompt_of(40, salt=1)]
    prompts.append([*prompts[2][:33], 7])  # finds two blocks of the one before
    streams: Streams = {}
    for number, prompt in enumerate(prompts):
        engine.add(job_of(number), prompt, [], greedy(3))
        step(engine, streams)
    run(engine, streams)
    assert streams[job_of(3)].cached_tokens == 32
    for number, prompt in enumerate(prompts):
        bench.reference.check_greedy(prompt, streams[job_of(number)].ids)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 20])
def test_both_kinds_in_one_step(window: int | None, dtype: torch.dtype) -> None:
    """A decode, a whole prompt and a chunk that follows earlier tokens; in bfloat16 on a GPU, by flash attention."""
    torch.manual_seed(0)
    flavour = Flavour(0.25, window, None, None)
    pool = KVPool([LayerShape(2, 16, 16)], 9, BLOCK, dtype, DEVICE, write)
    lengths, blocks = (21, 30, 50), ([7, 2], [0, 5], [8, 1, 6, 3])
    sequences = []
    for number, length in enumerate(lengths):
        sequences.append(Sequence(job_of(number), [0] * length, [], Params(max_tokens=1)))
        sequences[-1].blocks.extend(blocks[number])
    all_queries, all_keys, all_values = (
        [torch.randn(length, num_heads, 16, device=DEVICE).to(dtype) for length in lengths] for num_heads in (4, 2, 2)
    )

    def attend(plan: Plan, spans: list[tuple[int, int, int]]) -> torch.Tensor:
        """The output [T, H, D] of sequences' tokens [start, end)."""
        step = packed_step.pack(plan, pool, DEVICE).step
        query, key, value = (
            torch.cat([whole[number][start:end] for number, start, end in spans]).transpose(0, 1).unsqueeze(0)
            for whole in (all_queries, all_keys, all_values)
        )
        return step.attend(0, query, key, value, flavour)[0]

    attend(Plan([], [Chunk(sequences[0], 0, 20), Chunk(sequences[2], 0, 18)]), [(0, 0, 20), (2, 0, 18)])
    sequences[0].num_computed = 20
    spans = [(0, 20, 21), (1, 0, 30), (2, 18, 50)]
    found = attend(Plan(sequences[:1], [Chunk(sequences[1], 0, 30), Chunk(sequences[2], 18, 50)]), spans)
    wanted = [plain_attention(all_queries[n][start:], all_keys[n], all_values[n], flavour) for n, start, _ in spans]
    torch.testing.assert_close(found.float(), torch.cat(wanted), atol=TOLERANCE[dtype], rtol=0)
