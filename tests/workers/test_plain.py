"""The plain lane under the engine: one stateful model stands for all; test_architectures.py has the others."""

import re
import shutil
from pathlib import Path

import pytest
from engines import BLOCK, Bench, Streams, greedy, job_of, prompt_of, run, run_one, save_tiny, step
from models import CARD, DEMO, demo_tokenizer

from tokenyard.broker.params import Grammar, Params
from tokenyard.broker.spec import ModelSpec
from tokenyard.broker.wire import Finish
from tokenyard.workers.model import EngineOptions, load_model
from tokenyard.workers.plain import Prefill

SEEDED = Params(max_tokens=30, temperature=1.0, top_p=0.95, seed=7)


@pytest.fixture(scope="module", params=["bloom", "mamba", "openai-gpt"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One model of each way: prompts in chunks, whole, and computed anew in every step."""
    return Bench.load(save_tiny(tmp_path_factory.mktemp("plain") / request.param, request.param))


def test_ways_differ(plain: Bench) -> None:
    ways = {"BloomForCausalLM": Prefill.CHUNKS, "MambaForCausalLM": Prefill.WHOLE}
    assert plain.loaded.card.lane == "plain"
    assert plain.loaded.verdict.way.prefill == ways.get(type(plain.loaded.model).__name__, Prefill.ANEW)


def test_neighbours_chunks_and_prompts_beyond_the_budget(plain: Bench) -> None:
    engine = plain.engine(max_num_seqs=4, max_batch_tokens=24)
    prompts = {number: prompt_of(length) for number, length in enumerate((70, 3, 1, 50, 33))}
    streams: Streams = {}
    for number, prompt in prompts.items():
        engine.add(job_of(number), prompt, [], SEEDED if number % 2 else greedy(20))
        step(engine, streams)
    run(engine, streams)
    for number, prompt in prompts.items():
        stream = streams[job_of(number)]
        assert stream.cached_tokens == 0
        if number % 2:
            plain.reference.check(prompt, stream.ids, SEEDED)
        else:
            plain.reference.check_greedy(prompt, stream.ids)


def test_equal_prompts_share_nothing(plain: Bench) -> None:
    engine = plain.engine()
    first, second = (run_one(engine, prompt_of(40), greedy(10)) for _ in range(2))
    assert first.ids == second.ids
    assert engine.load()["hit_tokens"] == 0


def test_resume_goes_on_with_the_same_noise(plain: Bench) -> None:
    whole = run_one(plain.engine(), prompt_of(30), SEEDED)
    rest = run_one(plain.engine(), prompt_of(30), SEEDED, emitted=whole.ids[:11])
    assert rest.ids == whole.ids[11:]


def test_preemption_computes_anew(plain: Bench) -> None:
    engine = plain.engine(num_blocks=9, max_num_seqs=3, max_batch_tokens=64)
    prompts = {number: prompt_of(BLOCK * 2 + number) for number in range(3)}
    for number, prompt in prompts.items():
        engine.add(job_of(number), prompt, [], greedy(40))
    streams = run(engine)
    assert engine.load()["preempted"] > 0
    for number, prompt in prompts.items():
        plain.reference.check_greedy(prompt, streams[job_of(number)].ids)


def test_an_aborted_sequence_leaves_no_state(plain: Bench) -> None:
    engine = plain.engine()
    engine.add(job_of(0), prompt_of(20), [], greedy(50))
    engine.step()
    engine.abort(job_of(0))
    engine.check()
    assert not engine._lane._states  # type: ignore[attr-defined]
    assert engine.load()["free_blocks"] == engine.load()["num_blocks"]


def test_penalties_biases_and_logprobs(plain: Bench) -> None:
    params = SEEDED._replace(
        repetition_penalty=1.2, frequency_penalty=0.2, presence_penalty=0.1, logit_bias={5: 4.0, 6: -9.0}, logprobs=3
    )
    engine = plain.engine(max_num_seqs=3)
    prompts = {number: prompt_of(20 + number) for number in range(3)}
    for number, prompt in prompts.items():
        engine.add(job_of(number), prompt, [], params if number else greedy(30))
    streams = run(engine)
    plain.reference.check_greedy(prompts[0], streams[job_of(0)].ids)
    for number in (1, 2):
        stream, prompt = streams[job_of(number)], prompts[number]
        plain.reference.check(prompt, stream.ids, params)
        wanted = plain.reference.logits(prompt, stream.ids).log_softmax(dim=-1)
        for row, token, (chosen, top_ids, top_values) in zip(wanted, stream.ids, stream.logprobs, strict=True):
            assert chosen == pytest.approx(row[token].item(), abs=1e-3)
            assert top_values == pytest.approx(row[top_ids].tolist(), abs=1e-3)
            assert top_values == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A recurrent model with the demo model's tokenizer: a grammar is over texts."""
    directory = save_tiny(tmp_path_factory.mktemp("plain") / "speaking", "mamba", vocab_size=CARD.vocab_size)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(DEMO) / name, directory)
    return Bench.load(directory)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_grammars_beside_free_streams(speaking: Bench, temperature: float) -> None:
    tokenizer = demo_tokenizer().backend
    prompt = list(tokenizer.encode("A number: ").ids)
    grammar = Grammar("regex", "[0-9]{3}-[0-9]{3}", "response_format")
    engine = speaking.engine(max_num_seqs=4)
    free = Params(max_tokens=20, temperature=temperature, seed=1)
    guided = Params(20, temperature=temperature, seed=2, stop_token_ids=CARD.eos_token_ids, grammar=grammar)
    for number in range(4):
        engine.add(job_of(number), prompt, [], guided if number % 2 else free)
    streams = run(engine)
    for number, stream in ((number, streams[job_of(number)]) for number in range(4)):
        if number % 2:
            assert re.fullmatch("[0-9]{3}-[0-9]{3}", tokenizer.decode(stream.ids))
            assert stream.finish == Finish("stop")
        else:
            speaking.reference.check(prompt, stream.ids, free)


def test_states_count_against_the_memory(tmp_path: Path) -> None:
    spec = ModelSpec(str(save_tiny(tmp_path / "mamba", "mamba")))
    state_bytes = load_model(spec, "cpu", "float32", EngineOptions()).verdict.footprint.sequence_bytes
    assert state_bytes == 2 * 64 * (16 + 4) * 4  # 2 layers of 64 channels: 16 of recurrence, 4 of convolution
