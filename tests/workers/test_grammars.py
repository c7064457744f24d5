"""Sequences that follow grammars, in a real engine on the demo model: they fit, resume, and disturb nobody."""

import json
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import xgrammar
from engines import Bench, Stream, Streams, job_of, step
from models import CARD, DEMO, demo_tokenizer
from tape import record

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import Grammar, Params, Processors
from tokenyard.broker.wire import Finish, WorkerJob
from tokenyard.workers import grammar_compiler
from tokenyard.workers.engine import Engine
from tokenyard.workers.grammars import Grammars, forbid
from tokenyard.workers.graph_lane import GraphLane
from tokenyard.workers.graphs import num_rows
from tokenyard.workers.model import EngineOptions
from tokenyard.workers.outputs import Output
from tokenyard.workers.paged import PagedLane
from tokenyard.workers.scheduler import Sequence
from tokenyard.workers.static_step import gathered_decode

EOS = CARD.eos_token_ids
EAGER_TO_STOP = dict.fromkeys(EOS, 100.0)
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 10},
        "size": {"type": "integer", "minimum": 0, "maximum": 999},
        "kind": {"enum": ["port", "capital"]},
    },
    "required": ["city", "size", "kind"],
}
PATIENCE_S = 60.0
"""Bound on compiling a grammar on a busy machine."""


def encode(text: str) -> list[int]:
    return list(demo_tokenizer().backend.encode(text).ids)


def decode(ids: list[int]) -> str:
    return str(demo_tokenizer().backend.decode(ids))


PROMPT = encode("<|im_start|>user\nTell me about Paris as JSON.<|im_end|>\n<|im_start|>assistant\n")


def follow(kind: str, text: Any = "", **more: Any) -> Params:
    text = text if isinstance(text, str) else json.dumps(text)
    fields: dict[str, Any] = {"max_tokens": 120, "temperature": 1.0, "stop_token_ids": EOS, **more}
    return Params(grammar=Grammar(kind, text, "response_format"), **fields)


@pytest.fixture(scope="module")
def demo() -> Bench:
    return Bench.load(Path(DEMO))


@pytest.fixture(params=["eager", "ahead", "guessing", "guessing ahead"])
def engine(request: pytest.FixtureRequest, demo: Bench) -> Engine:
    """Steps that land at once, and steps that run ahead as they do on a GPU; both with speculation, too."""
    num_drafts = 3 if "guessing" in request.param else 0
    if "ahead" not in request.param:
        return demo.engine(num_drafts=num_drafts)
    lane = GraphLane(demo.loaded, PagedLane(demo.loaded), num_rows(8, num_drafts), [64], gathered_decode, record)
    return Engine(demo.loaded, EngineOptions(max_num_seqs=8, num_drafts=num_drafts), lane)


def finish(engine: Engine, streams: Streams | None = None, first_index: int = 0) -> Streams:
    """Step until nothing is left; what is being compiled comes in time."""
    streams = {} if streams is None else streams
    deadline = time.monotonic() + PATIENCE_S
    while engine.has_work:
        step(engine, streams, first_index=first_index)
        assert time.monotonic() < deadline
    assert engine.load()["free_blocks"] == engine.load()["num_blocks"]
    assert not engine._grammars._places, "who has ended is forgotten"
    assert not engine._sampler._counts._row_of
    assert not engine._sampler._rules
    return streams


def answer(engine: Engine, params: Params, emitted: list[int] | None = None) -> Stream:
    """One job alone."""
    engine.add(job_of(0), PROMPT, emitted or [], params)
    return finish(engine, first_index=len(emitted or []))[job_of(0)]


def text_of(stream: Stream) -> str:
    """A stream's text without the token that stopped it."""
    assert stream.finish == Finish("stop")
    return decode(stream.ids[:-1] if stream.ids[-1] in EOS else stream.ids)


def check_schema(stream: Stream) -> None:
    jsonschema.validate(json.loads(text_of(stream)), SCHEMA)


# Every answer fits.


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_every_answer_fits_its_schema(engine: Engine, temperature: float) -> None:
    for seed in range(8):
        engine.add(job_of(seed), PROMPT, [], follow("json_schema", SCHEMA, temperature=temperature, seed=seed))
    streams = finish(engine)
    for seed in range(8):
        check_schema(streams[job_of(seed)])
    num_different = len({tuple(stream.ids) for stream in streams.values()})
    assert num_different == 1 if temperature == 0 else num_different > 4


def test_guesses_within_a_grammar_come_right(demo: Bench, engine: Engine) -> None:
    params = follow("regex", "(port, capital, ){8}", temperature=0.0)
    assert text_of(answer(engine, params)) == "port, capital, " * 8
    figures = engine.load()
    assert figures.get("confirmed", 1) > 0
    assert figures.get("guessed", 1) >= figures.get("confirmed", 1)


def test_penalties_and_biases_move_tokens_within_what_is_allowed(engine: Engine) -> None:
    wish = follow("choice", ["port", "capital"], temperature=0.0)
    (likely, other) = ("port", "capital") if text_of(answer(engine, wish)) == "port" else ("capital", "port")
    beginnings = {encode(likely[:count])[0]: -100.0 for count in range(1, len(likely) + 1)}
    biased = wish._replace(logit_bias={**beginnings, encode("zebra")[0]: 100.0})
    assert text_of(answer(engine, biased)) == other
    check_schema(answer(engine, follow("json_schema", SCHEMA, repetition_penalty=1.5, frequency_penalty=1.0, top_k=3)))


def test_bans_hold_within_what_is_allowed_and_give_way_where_that_is_all(engine: Engine) -> None:
    wish = follow("choice", ["port", "capital"], temperature=0.0)
    (likely, other) = ("port", "capital") if text_of(answer(engine, wish)) == "port" else ("capital", "port")
    beginnings = {word: [encode(word[:count])[0] for count in range(1, len(word) + 1)] for word in ("port", "capital")}
    banned = Processors(suppress_tokens=beginnings[likely])
    assert text_of(answer(engine, wish._replace(processors=banned))) == other
    all_banned = Processors(suppress_tokens=beginnings[likely] + beginnings[other], no_repeat_ngram_size=1)
    assert text_of(answer(engine, wish._replace(processors=all_banned))) == likely
    processors = Processors(no_repeat_ngram_size=1, typical_p=0.9)
    check_schema(answer(engine, follow("json_schema", SCHEMA, processors=processors)))


def test_no_token_is_forced_where_the_grammar_does_not_allow_it(engine: Engine) -> None:
    stream = answer(
        engine, follow("json_schema", SCHEMA, max_tokens=5, processors=Processors(forced_eos_token_ids=EOS))
    )
    assert stream.finish == Finish("length")
    assert not set(stream.ids) & set(EOS)


def test_logprobs_are_those_of_the_raw_logits(demo: Bench, engine: Engine) -> None:
    stream = answer(engine, follow("regex", "[0-9]{6}", logprobs=3))
    wanted = demo.reference.logits(PROMPT, stream.ids).log_softmax(dim=-1)
    for row, token, (chosen, top_ids, _) in zip(wanted, stream.ids, stream.logprobs, strict=True):
        assert chosen == pytest.approx(row[token].item(), abs=1e-3)
        assert len(top_ids) == 3
    assert stream.logprobs[0][0] < stream.logprobs[0][2][0], "the likeliest was not allowed"


# Where the end may come.


def test_a_stop_token_comes_where_the_grammar_may_end_and_only_there(engine: Engine) -> None:
    stream = answer(engine, follow("regex", "[0-9]{3,}", logit_bias=EAGER_TO_STOP))
    assert len(text_of(stream)) >= 3
    assert all(character.isdigit() for character in text_of(stream))
    assert stream.ids[-1] in EOS
    assert len(stream.ids) <= 4


def test_min_tokens_puts_off_an_end_that_may_come_but_not_one_that_must(engine: Engine) -> None:
    stream = answer(engine, follow("regex", "[0-9]+", logit_bias=EAGER_TO_STOP, min_tokens=20))
    assert len(stream.ids) == 21
    assert text_of(answer(engine, follow("regex", "[0-9]{3}", min_tokens=20))).isdigit()


def test_without_stop_tokens_the_answer_ends_where_nothing_can_follow(engine: Engine) -> None:
    for min_tokens in (0, 20):
        stream = answer(engine, follow("choice", ["port", "capital"], stop_token_ids=[], min_tokens=min_tokens))
        assert text_of(stream) in ("port", "capital")
    endless = answer(engine, follow("regex", "[0-9]+", stop_token_ids=[], max_tokens=30))
    assert (endless.finish, len(endless.ids)) == (Finish("length"), 30)


def test_a_stop_token_that_is_text_stops_and_is_no_text(engine: Engine) -> None:
    (comma,) = encode(",")
    stream = answer(engine, follow("regex", "[0-9]+(,[0-9]+)*", stop_token_ids=[comma], logit_bias={comma: 100.0}))
    assert stream.ids[-1] == comma
    assert decode(stream.ids[:-1]).isdigit()


def test_a_dead_end_is_an_error_of_its_own_sequence(engine: Engine) -> None:
    outputs = outputs_of(engine, follow("ebnf", "root ::= root"))
    assert outputs[-1].delta.finish is not None
    assert outputs[-1].delta.finish[:2] == ("error", "invalid_value")


# Resume, preemption, abort, neighbours.


def test_a_resumed_stream_goes_on_as_it_would_have(demo: Bench, engine: Engine) -> None:
    params = follow("json_schema", SCHEMA, seed=5)
    whole = answer(engine, params)
    for cut in (1, 5, len(whole.ids) - 1):
        assert whole.ids[:cut] + answer(engine, params, whole.ids[:cut]).ids == whole.ids
    unguided = params._replace(grammar=None)
    with pytest.raises(AssertionError):
        demo.reference.check(PROMPT, whole.ids, unguided)


def test_emitted_tokens_that_do_not_fit_end_a_resume(engine: Engine) -> None:
    outputs = outputs_of(engine, follow("json_schema", SCHEMA), encode("no JSON"))
    finish = outputs[-1].delta.finish
    assert finish is not None
    assert (finish.code, finish.param) == ("invalid_value", "response_format")
    assert outputs[-1].delta.first_index == len(encode("no JSON"))


def test_preempted_sequences_keep_their_place(demo: Bench) -> None:
    engine = demo.engine(num_blocks=len(PROMPT) // 16 + 9, max_num_seqs=8)
    for seed in range(6):
        engine.add(job_of(seed), [*PROMPT, seed], [], follow("json_schema", SCHEMA, seed=seed))
    streams = finish(engine)
    assert engine.load()["preempted"] > 0
    for stream in streams.values():
        check_schema(stream)


def test_neighbours_are_the_references(demo: Bench, engine: Engine) -> None:
    plain = Params(max_tokens=40, temperature=0.8, seed=9, min_tokens=40, stop_token_ids=EOS, repetition_penalty=1.1)
    for number in range(6):
        params = follow("json_schema", SCHEMA, seed=number) if number % 2 else plain._replace(seed=number)
        engine.add(job_of(number), PROMPT, [], params)
    streams = finish(engine)
    for number in range(6):
        if number % 2:
            check_schema(streams[job_of(number)])
        else:
            demo.reference.check(PROMPT, streams[job_of(number)].ids, plain._replace(seed=number))


def slow_schema(salt: int) -> dict[str, Any]:
    """Takes a second or more to compile."""
    names = [f"p{salt}x{index}" for index in range(40)]
    return {
        "type": "object",
        "properties": {name: {"type": "string", "pattern": f"[a-z]{{1,30}}{name}"} for name in names},
        "required": names,
    }


def test_neighbours_go_on_while_a_grammar_is_compiled(demo: Bench) -> None:
    engine = demo.engine()
    streams: Streams = {}
    engine.add(job_of(0), PROMPT, [], Params(max_tokens=1000, temperature=0.0))
    step(engine, streams)
    engine.add(job_of(1), PROMPT, [], follow("json_schema", slow_schema(1)))
    before = len(streams[job_of(0)].ids)
    while engine.load()["compiling"] and len(streams[job_of(0)].ids) < before + 5:
        step(engine, streams)
    assert len(streams[job_of(0)].ids) >= before + 5
    engine.abort(job_of(1))
    engine.check()
    engine.abort(job_of(0))
    assert not engine.has_work


def test_abort_at_any_time(engine: Engine) -> None:
    streams: Streams = {}
    for number in range(6):
        engine.add(job_of(number), PROMPT, [], follow("json_schema", SCHEMA, seed=number))
    engine.abort(job_of(0))
    engine.check()
    while not streams:
        step(engine, streams)
    for number in (1, 2):
        engine.abort(job_of(number))
        engine.check()
    finish(engine, streams)
    for number in (3, 4, 5):
        check_schema(streams[job_of(number)])


def outputs_of(engine: Engine, params: Params, emitted: list[int] | None = None) -> list[Output]:
    """All that one job brings, which may be an error."""
    engine.add(job_of(0), PROMPT, emitted or [], params)
    outputs = []
    deadline = time.monotonic() + PATIENCE_S
    while engine.has_work:
        outputs += engine.step()
        engine.check()
        assert time.monotonic() < deadline
    return outputs


def test_what_is_no_grammar_ends_its_own_sequence_before_a_token(engine: Engine) -> None:
    (output,) = outputs_of(engine, follow("regex", "(a"))
    assert output.delta.token_ids == []
    assert output.delta.finish is not None
    assert output.delta.finish[:2] == ("error", "invalid_value")
    assert output.delta.finish.param == "response_format"
    check_schema(answer(engine, follow("json_schema", SCHEMA)))


def test_an_unforeseen_failure_ends_its_own_sequence_and_is_logged(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise KeyError("model")

    neighbour = Params(max_tokens=20, temperature=0.0)
    engine.add(job_of(7), PROMPT, [], neighbour)
    with monkeypatch.context() as patch:
        patch.setattr(grammar_compiler, "_vocabulary", fail)
        outputs = outputs_of(engine, follow("regex", "a+"))
    ends = {output.key: output.delta.finish for output in outputs if output.delta.finish}
    assert ends[job_of(7)] == Finish("length")
    assert ends[job_of(0)].code == "worker_error"
    assert "KeyError: 'model'" in caplog.text
    assert text_of(answer(engine, follow("regex", "a{3}"))) == "aaa"


def test_a_matcher_that_fails_ends_its_own_sequence(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("Check failed")

    with monkeypatch.context() as patch:
        patch.setattr(xgrammar, "GrammarMatcher", fail)
        (output,) = outputs_of(engine, follow("regex", "a+"))
    assert output.delta.finish is not None
    assert output.delta.finish.code == "worker_error"


# The bits.


def begun(params: Params) -> tuple[Grammars, Sequence]:
    """A sequence whose grammar is compiled."""
    grammars = Grammars(CARD, torch.device("cpu"))
    sequence = Sequence(WorkerJob(b"", 1, 1), [1], [], params)
    grammars.begin(sequence)
    results: list[tuple[Sequence, TokenyardError | None]] = []
    deadline = time.monotonic() + PATIENCE_S
    while not results:
        results = grammars.compiled()
        assert time.monotonic() < deadline
    assert results == [(sequence, None)]
    return grammars, sequence


def test_bits_stand_for_the_tokens_that_the_matcher_takes() -> None:
    grammars, sequence = begun(follow("regex", "[ab]{2}"))
    other = Sequence(WorkerJob(b"", 2, 1), [1], [], Params(max_tokens=1))
    assert grammars.allowed([other]) is None
    scores = torch.zeros(3, CARD.vocab_size)
    allowed = grammars.allowed([other, sequence, other])
    assert allowed is not None
    allowed.mask(scores)
    assert scores[[0, 2]].count_nonzero() == 0, "rows without a grammar are not touched"
    found = {decode([token]) for token in scores[1].isfinite().nonzero().flatten().tolist()}
    assert {"a", "b"} <= found <= {"a", "b", "aa", "ab", "ba", "bb"}


@pytest.mark.parametrize("vocab_size", [31, 32, 33, 301, 2048])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_gpu_forbids_is_what_xgrammar_would(vocab_size: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    num_words = vocab_size // 32 + 1  # the end's bit included
    bits = torch.randint(-(2**31), 2**31, (3, num_words), dtype=torch.int32, generator=generator)
    bits[2] = -1  # all
    scores = torch.randn(3, vocab_size, generator=generator).to(dtype)
    wanted, found = scores.float(), scores.clone()
    xgrammar.apply_token_bitmask_inplace(wanted, bits, vocab_size=vocab_size)
    forbid(found, bits)
    assert torch.equal(found.float(), wanted)
    assert torch.equal(found[2], scores[2])
