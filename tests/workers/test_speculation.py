"""Speculation guesses from a sequence's own tokens, and changes nothing but the number of steps."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from engines import Bench, Streams, greedy, job_of, prompt_of, run, run_one, step

from tokenyard.broker.errors import SetupError
from tokenyard.broker.params import Params
from tokenyard.broker.wire import Finish, WorkerJob
from tokenyard.workers import speculation
from tokenyard.workers.engine import Engine
from tokenyard.workers.model import EngineOptions
from tokenyard.workers.plain import WAYS, PlainLane, PlainModel
from tokenyard.workers.scheduler import Sequence
from tokenyard.workers.speculation import REST, TRIAL, Speculation, parse_speculate


@pytest.fixture(autouse=True)
def _tireless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences guess on, however seldom they are right: most of what is tested here is what becomes of guesses."""
    monkeypatch.setattr(speculation, "REST", 0)


SEEDED = Params(max_tokens=60, temperature=0.7, top_p=0.9, seed=2**63 + 5)


@pytest.mark.parametrize(("text", "count"), [("", 0), ("ngram:1", 1), ("ngram:16", 16)])
def test_parse(text: str, count: int) -> None:
    assert parse_speculate(text) == count


@pytest.mark.parametrize("text", ["ngram", "ngram:", "ngram:0", "ngram:17", "ngram:-1", "draft:4", "ngram:x"])
def test_parse_refuses_with_words(text: str) -> None:
    with pytest.raises(SetupError, match="ngram:K"):
        parse_speculate(text)


def running(ids: list[int]) -> Sequence:
    sequence = Sequence(WorkerJob(b"", 0, 1), ids, [], Params(99))
    sequence.num_computed = len(ids) - 1
    return sequence


def test_what_followed_the_last_time_is_guessed() -> None:
    speculation = Speculation(3)
    one, other = running([1, 2, 3, 4, 9, 9, 1, 2, 5, 6, 1, 2]), running([1, 2, 3])
    assert speculation.drafts([one, other]) == {one: [5, 6, 1]}
    for token in (3, 4):
        one.ids.append(token)
    one.num_tokens = len(one.ids)
    assert speculation.drafts([one]) == {}, "not ready to decode"
    one.num_computed = len(one.ids) - 1
    assert speculation.drafts([one]) == {one: [9, 9, 1]}, "four tokens that came before say more than two"


def test_nothing_is_guessed_when_it_is_off() -> None:
    off = Speculation(0)
    assert off.drafts([running([1, 2, 1, 2])]) == {}
    assert not off.may_guess([running([1, 2, 1, 2])])
    assert off.figures() == {}


def test_there_may_be_more_sequences_than_room() -> None:
    speculation = Speculation(3)
    first, second, third = (running([1, 2, 5, 6, 7, 1, 2]) for _ in range(3))
    assert speculation.drafts([first, second, third], 4) == {first: [5, 6, 7], second: [5]}
    assert speculation.drafts([first], 0) == {}


@pytest.mark.parametrize("ids", [[1, 2, 3, 4, 5], [7, 7, 1, 2, 3, 1], [1, 2, 3, 1], [4, 5, 4], [3], [3, 3]])
def test_who_may_guess_is_who_would_with_some_next_token(ids: list[int]) -> None:
    found = []
    for token in range(9):
        found += Speculation(2).drafts([running([*ids, token])])
    assert Speculation(2).may_guess([running(ids)]) == bool(found)


def test_a_sequence_that_guesses_badly_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speculation, "REST", REST)
    guesser = Speculation(4)
    bad, good = running([1, 2, 1, 2]), running([1, 2, 1, 2])
    for _ in range(TRIAL // 4):
        assert len(guesser.drafts([bad, good])) == 2
        guesser.judge(bad, 4, 0)
        guesser.judge(good, 4, 1)
    assert set(guesser.drafts([bad, good])) == {good}
    assert not guesser.may_guess([bad])
    assert guesser.may_guess([good])
    for _ in range(REST):
        assert set(guesser.drafts([bad])) == set()
        bad.ids.append(1 + len(bad.ids) % 2)
        bad.num_computed, bad.num_tokens = len(bad.ids) - 1, len(bad.ids)
    assert set(guesser.drafts([bad])) == {bad}
    assert guesser.figures() == {"guessed": 8 * TRIAL // 4, "confirmed": TRIAL // 4}


def test_a_judgement_after_the_end_is_only_counted() -> None:
    speculation = Speculation(4)
    one = running([1, 2, 1, 2])
    speculation.drafts([one])
    speculation.forget(one)
    speculation.judge(one, 4, 1)
    assert speculation.figures() == {"guessed": 4, "confirmed": 1}


def repetitive(number: int) -> list[int]:
    """A prompt in which most runs of tokens come again."""
    return prompt_of(12, salt=number) * 4


FAVOURED = dict.fromkeys(range(4), 30.0)
"""Bias towards a few tokens, so strong that streams repeat themselves: many guesses come right, and many do not."""
CYCLIC = greedy(60, logit_bias=FAVOURED)
CASES: dict[str, Params] = {
    "greedy": CYCLIC,
    "seeded": SEEDED._replace(logit_bias=FAVOURED),
    "penalties": SEEDED._replace(
        logit_bias=FAVOURED, repetition_penalty=1.1, frequency_penalty=0.05, presence_penalty=0.1
    ),
    "logprobs": greedy(60, logit_bias=FAVOURED, logprobs=3),
    "min_tokens": SEEDED._replace(logit_bias=FAVOURED, min_tokens=30, stop_token_ids=[2]),
}


@pytest.mark.parametrize("name", CASES)
def test_streams_are_the_same(bench: Bench, name: str) -> None:
    plain, guessing = bench.engine(), bench.engine(num_drafts=4)
    for number in range(2):
        params = CASES[name]._replace(seed=number)
        streams = [run_one(engine, repetitive(number), params) for engine in (plain, guessing)]
        bench.reference.check(repetitive(number), streams[1].ids, params)
        assert streams[0].finish == streams[1].finish
        assert len(streams[1].ids) == len(streams[0].ids)
        assert len(streams[1].logprobs) == len(streams[0].logprobs)
        for ours, theirs in zip(streams[1].logprobs, streams[0].logprobs, strict=True):
            assert ours[0] == pytest.approx(theirs[0], abs=1e-3)
    assert guessing.load()["guessed"] > guessing.load()["confirmed"] > 10


def test_right_guesses_save_steps(llama: Bench) -> None:
    engine = llama.engine(num_drafts=4)
    stream = run_one(engine, repetitive(0), CYCLIC)
    llama.reference.check(repetitive(0), stream.ids, CYCLIC)
    figures = engine.load()
    assert figures["confirmed"] > 15
    assert engine.num_steps == 60 - figures["confirmed"]
    assert stream.steps == sorted(stream.steps)


@pytest.mark.parametrize("count", range(1, 9))
def test_max_tokens_inside_a_run_of_right_guesses(llama: Bench, count: int) -> None:
    full = run_one(llama.engine(), repetitive(0), CYCLIC).ids
    params = CYCLIC._replace(max_tokens=40 + count)
    stream = run_one(llama.engine(num_drafts=5), repetitive(0), params)
    assert stream.ids == full[: 40 + count]
    assert stream.finish == Finish("length")


def test_a_stop_token_inside_a_run_of_right_guesses(llama: Bench) -> None:
    free = run_one(llama.engine(), repetitive(0), CYCLIC).ids
    for token in set(free):
        params = CYCLIC._replace(stop_token_ids=[token], min_tokens=0)
        plain, guessed = (run_one(llama.engine(num_drafts=count), repetitive(0), params) for count in (0, 6))
        assert plain.ids == guessed.ids
        assert plain.finish == guessed.finish


def busy(engine: Engine, tell: Callable[[int], Params]) -> Streams:
    """Sequences that come in while others decode, one of them aborted."""
    streams: Streams = {}
    for number in range(8):
        engine.add(job_of(number), repetitive(number)[: 20 + 4 * number], [], tell(number))
        step(engine, streams)
    engine.abort(job_of(3))
    return run(engine, streams)


def test_among_neighbours_with_little_memory(llama: Bench) -> None:
    def params(number: int) -> Params:
        return (CYCLIC, SEEDED._replace(seed=number), greedy(50, repetition_penalty=1.2))[number % 3]

    engine = llama.engine(num_blocks=20, max_num_seqs=6, max_batch_tokens=20, num_drafts=4)
    streams = busy(engine, params)
    assert engine.load()["preempted"] > 0
    assert engine.load()["confirmed"] > 20
    for number in range(8):
        if number != 3:
            prompt = repetitive(number)[: 20 + 4 * number]
            llama.reference.check(prompt, streams[job_of(number)].ids, params(number))
            assert len(streams[job_of(number)].ids) == params(number).max_tokens


def test_up_to_the_end_of_context_and_pool(llama: Bench) -> None:
    engine = llama.engine(num_blocks=5, num_drafts=6)
    stream = run_one(engine, repetitive(0), CYCLIC._replace(max_tokens=500))
    assert len(stream.ids) == 5 * 16 - 48
    assert stream.finish == Finish("length")


def test_a_lane_that_cannot_check_guesses_says_so(llama: Bench, caplog: pytest.LogCaptureFixture) -> None:
    plain = replace(llama.loaded, card=llama.loaded.card._replace(lane="plain"))
    lane = PlainLane(PlainModel(llama.reference.model, WAYS[0]))
    engine = Engine(plain, EngineOptions(num_drafts=4), lane)
    assert "--speculate does nothing here: the plain lane cannot check guesses" in caplog.text
    engine.add(job_of(0), repetitive(0), [], CYCLIC)
    llama.reference.check(repetitive(0), run(engine)[job_of(0)].ids, CYCLIC)
    assert "guessed" not in engine.load()
