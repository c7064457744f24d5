"""Logprobs of prompts, and after them: those of transformers' own forward, on every lane and whatever runs beside."""

from typing import Any

import numpy as np
import pytest
import torch
from engines import BLOCK, VOCAB, Bench, greedy, job_of, prompt_of, save_tiny

from tokenyard.broker.config import MAX_FINISH_BYTES
from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import Params
from tokenyard.broker.wire import Delta, Finish, WorkerJob
from tokenyard.workers.engine import Engine
from tokenyard.workers.scoring import ROWS, PromptLogprobs

PLAIN = ["bloom", "mamba", "openai-gpt"]
"""One of each way of the plain lane: in chunks, whole, anew in every step."""


@pytest.fixture(scope="module", params=["llama", "gemma2", *PLAIN])
def any_lane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Gemma 2 caps its logits after the head."""
    family: str = request.param
    extra: dict[str, Any] = {"final_logit_softcapping": 5.0} if family == "gemma2" else {}
    return Bench.load(save_tiny(tmp_path_factory.mktemp("scored") / family, family, **extra))


class Answers:
    """What each job's deltas said, put together as a front does."""

    def __init__(self) -> None:
        self.ids: dict[int, list[int]] = {}
        self.prompts: dict[int, list[tuple[Any, ...]]] = {}
        """By job: (chosen, rank, top values, top ids) of each prompt token from the second on."""
        self.scores: dict[int, list[float]] = {}
        self.finishes: dict[int, Finish] = {}
        self.cached: dict[int, int] = {}

    def take(self, key: WorkerJob, delta: Delta) -> None:
        assert key.job not in self.finishes
        ids, prompt = self.ids.setdefault(key.job, []), self.prompts.setdefault(key.job, [])
        if "cached_tokens" in delta.extra:
            assert key.job not in self.cached
            self.cached[key.job] = delta.extra["cached_tokens"]
        if "prompt_logprobs" in delta.extra:
            assert not ids, "a prompt's logprobs come before its tokens"
            first, *packed = delta.extra["prompt_logprobs"]
            assert first == len(prompt) + 1, "each token's once, in order"
            chosen, ranks, values, top = (np.frombuffer(one, kind) for one, kind in zip(packed, KINDS, strict=True))
            shape = (len(chosen), len(values) // len(chosen))
            prompt += zip(chosen, ranks, values.reshape(shape), top.reshape(shape), strict=True)
        if "scores" in delta.extra:
            self.scores[key.job] = delta.extra["scores"]
        ids += delta.token_ids
        if delta.finish is not None:
            self.finishes[key.job] = delta.finish


KINDS = ("<f4", "<u4", "<f4", "<u4")


def answers(engine: Engine, found: Answers | None = None) -> Answers:
    """Step until nothing is left."""
    found = found or Answers()
    for _ in range(2000):
        if not engine.has_work:
            assert engine.load()["free_blocks"] == engine.load()["num_blocks"]
            return found
        for key, delta in engine.step():
            found.take(key, delta)
        engine.check()
    raise AssertionError("the engine does not come to an end")


def check_prompt(bench: Bench, prompt: list[int], found: list[tuple[Any, ...]], most: int) -> None:
    with torch.inference_mode():
        logits = bench.reference.model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0]
    expected = logits.log_softmax(-1)[:-1]
    assert len(found) == len(prompt) - 1
    for row, token, (chosen, rank, values, ids) in zip(expected, prompt[1:], found, strict=True):
        assert chosen == pytest.approx(row[token].item(), abs=1e-3)
        assert len(values) == len(ids) == most
        assert values == pytest.approx(row[ids.astype(np.int64)].numpy(), abs=1e-3)
        assert values == pytest.approx(row.topk(most).values.numpy(), abs=1e-3)
        near = 1 + (row > row[token] + 1e-3).sum().item(), 1 + (row > row[token] - 1e-3).sum().item()
        assert near[0] <= rank <= near[1]


def test_prompts_among_neighbours_in_chunks(any_lane: Bench) -> None:
    engine = any_lane.engine(max_num_seqs=8, max_batch_tokens=24)
    prompts = {number: prompt_of(length) for number, length in enumerate((100, 1, 2, 33, 16, 70))}
    for number, prompt in prompts.items():
        engine.add(job_of(number), prompt, [], greedy(8, prompt_logprobs=(5, 0, 3)[number % 3]))
    engine.add(job_of(10), prompt_of(50), [], greedy(30))
    found = answers(engine)
    for number, prompt in prompts.items():
        check_prompt(any_lane, prompt, found.prompts[number], (5, 0, 3)[number % 3])
        any_lane.reference.check_greedy(prompt, found.ids[number])
    assert not found.prompts[10]
    any_lane.reference.check_greedy(prompt_of(50), found.ids[10])


def test_scores_after_a_prompt(any_lane: Bench) -> None:
    engine = any_lane.engine(max_num_seqs=4, max_batch_tokens=24)
    prompts = {number: prompt_of(length) for number, length in enumerate((70, 1, 16, 17))}
    for number, prompt in prompts.items():
        engine.score(job_of(number), prompt, Params(max_tokens=0, score_ids=[7, 3, 200], prompt_logprobs=number - 1))
    engine.add(job_of(9), prompt_of(40), [], greedy(20))
    found = answers(engine)
    for number, prompt in prompts.items():
        with torch.inference_mode():
            last = any_lane.reference.model(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        assert found.scores[number] == pytest.approx(last[[7, 3, 200]].tolist(), abs=1e-3)
        assert found.finishes[number] == Finish("length")
        assert found.ids[number] == []
        if number:
            check_prompt(any_lane, prompt, found.prompts[number], number - 1)
        else:
            assert not found.prompts[number]
    any_lane.reference.check_greedy(prompt_of(40), found.ids[9])


def test_scores_reuse_a_prefix_and_prompt_logprobs_do_not(llama: Bench) -> None:
    engine = llama.engine()
    prompt = prompt_of(3 * BLOCK + 1)
    engine.score(job_of(0), prompt, Params(max_tokens=0, score_ids=[1]))
    first = answers(engine)
    engine.score(job_of(1), prompt, Params(max_tokens=0, score_ids=[1]))
    engine.add(job_of(2), prompt, [], greedy(4, prompt_logprobs=2))
    found = answers(engine)
    assert (first.cached[0], found.cached[1], found.cached[2]) == (0, 3 * BLOCK, 0)
    assert found.scores[1] == pytest.approx(first.scores[0], abs=1e-4)
    check_prompt(llama, prompt, found.prompts[2], 2)


def test_a_chunk_that_leaves_one_token_leaves_the_scores(llama: Bench) -> None:
    engine = llama.engine(max_num_seqs=4, max_batch_tokens=24)
    engine.score(job_of(0), prompt_of(25), Params(max_tokens=0, score_ids=[1]))
    assert len(answers(engine).scores[0]) == 1


def test_scores_of_one_prefix_share_its_prefill(llama: Bench) -> None:
    engine = llama.engine(max_batch_tokens=64)
    shared = prompt_of(5 * BLOCK)
    for number in range(10):
        engine.score(job_of(number), [*shared, number, number + 1], Params(max_tokens=0, score_ids=[number]))
    found = answers(engine)
    assert [found.cached[number] for number in range(10)] == [0] + [5 * BLOCK] * 9


def test_preemption_in_a_prompt_tells_nothing_twice(llama: Bench) -> None:
    engine = llama.engine(num_blocks=9, max_num_seqs=3, max_batch_tokens=3)
    engine.add(job_of(0), prompt_of(BLOCK), [], greedy(60))
    found = Answers()
    engine.add(job_of(1), prompt_of(7 * BLOCK - 2), [], greedy(4, prompt_logprobs=1))
    while not engine.load()["preempted"]:
        for key, delta in engine.step():
            found.take(key, delta)
    assert 0 < len(found.prompts[1]) < 7 * BLOCK - 3
    answers(engine, found)
    check_prompt(llama, prompt_of(7 * BLOCK - 2), found.prompts[1], 1)
    llama.reference.check_greedy(prompt_of(7 * BLOCK - 2), found.ids[1])
    llama.reference.check_greedy(prompt_of(BLOCK), found.ids[0])


def test_a_resumed_stream_tells_its_prompt_no_more(any_lane: Bench) -> None:
    params = greedy(12, prompt_logprobs=2)
    engine = any_lane.engine()
    engine.add(job_of(0), prompt_of(20), [], params)
    whole = answers(engine).ids[0]
    engine.add(job_of(1), prompt_of(20), whole[:5], params)
    found = answers(engine)
    assert found.ids[1] == whole[5:]
    assert not found.prompts[1]


def test_a_prompt_as_long_as_the_context_can_be_scored(llama: Bench) -> None:
    engine = llama.engine(num_blocks=4)
    prompt = prompt_of(4 * BLOCK)
    engine.score(job_of(0), prompt, Params(max_tokens=0, prompt_logprobs=0))
    check_prompt(llama, prompt, answers(engine).prompts[0], 0)
    with pytest.raises(TokenyardError, match="at most 64 fit"):
        engine.score(job_of(1), [*prompt, 1], Params(max_tokens=0))


def test_an_id_beyond_the_vocabulary_is_refused(llama: Bench) -> None:
    with pytest.raises(TokenyardError, match=f"score_ids: token ids must be below {VOCAB}"):
        llama.engine().score(job_of(0), [1], Params(max_tokens=0, score_ids=[VOCAB]))


def test_a_head_that_cannot_be_run_alone_is_refused(llama: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama.loaded.model, "base_model_prefix", "nothing")
    with pytest.raises(TokenyardError, match="gives no logprobs of a prompt"):
        llama.engine().add(job_of(0), [1, 2], [], greedy(1, prompt_logprobs=0))
    llama.engine().add(job_of(0), [1, 2], [], greedy(1))


def test_logits_of_a_long_prompt_are_made_in_parts(llama: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0

    def look(_module: object, _inputs: object, output: torch.Tensor) -> None:
        nonlocal most
        most = max(most, output.shape[-2])

    engine = llama.engine(max_batch_tokens=256)
    engine.add(job_of(0), prompt_of(200), [], greedy(1, prompt_logprobs=0))
    hook = llama.loaded.model.get_output_embeddings().register_forward_hook(look)
    answers(engine)
    hook.remove()
    assert most == ROWS


def test_long_answers_are_cut() -> None:
    count, most = 100_000, 20
    columns = torch.zeros(count), torch.ones(count), torch.zeros(count, most), torch.zeros(count, most)
    extras = list(PromptLogprobs(None, 1, *columns).extras())  # type: ignore[arg-type]
    told = [extra["prompt_logprobs"] for extra in extras]
    assert all(sum(map(len, one[1:])) <= MAX_FINISH_BYTES for one in told)  # type: ignore[index]
    assert sum(len(one[1]) for one in told) == 4 * count  # type: ignore[index]
    assert [one[0] for one in told][:2] == [1, 1 + MAX_FINISH_BYTES // 168]  # type: ignore[index]
