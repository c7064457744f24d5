"""POST /v1/completions: prompts that come back with their answers, the best of several, and middles filled in."""

from array import array
from typing import Any

import pytest
from front import CHAT, COMPLETIONS, events, post
from models import CARD, demo_tokenizer
from openai.types import Completion
from scripted import Job

from tokenyard.broker.wire import Finish
from tokenyard.http.replies import MANY_SCORES

BACKEND = demo_tokenizer().backend
TEXT = "Hello 🤖, you there"
IDS: list[int] = BACKEND.encode(TEXT).ids


def told(ids: list[int], most: int, first: int = 1, end: int | None = None) -> dict[str, Any]:
    """What a worker says of a prompt: token i has logprob -i, rank i + 1, and these likeliest: 1000, 1001, ..."""
    places = range(first, len(ids) if end is None else end)
    columns = [
        array("f", [-float(at) for at in places]),
        array("I", [at + 1 for at in places]),
        array("f", [-0.5 - rank for _ in places for rank in range(most)]),
        array("I", [1000 + rank for _ in places for rank in range(most)]),
    ]
    return {"prompt_logprobs": [first, *(column.tobytes() for column in columns)]}


def says(text: str, logprob: float = -0.25) -> Any:
    """A job that tells its prompt where it is asked to, in two parts, then a text."""

    def play(job: Job) -> None:
        job.run()
        params, ids = job.request.params, job.request.prompt_ids
        if params.prompt_logprobs >= 0 and len(ids) > 1:
            cut = max(2, len(ids) // 2)
            job.sink.delta([], told(ids, params.prompt_logprobs, 1, cut), None)
            if cut < len(ids):
                job.sink.delta([], told(ids, params.prompt_logprobs, cut), None)
        if job.request.kind == "score":
            job.sink.delta([], {"scores": []}, Finish("length"))
            return
        for token_id in BACKEND.encode(text).ids:
            logprobs = {"logprobs": [[logprob, [token_id, 7], [logprob, -3.0]]]}
            job.sink.delta([token_id], logprobs if params.logprobs >= 0 else {}, None)
        job.end()

    return play


def complete(play: Any = None, **fields: Any) -> tuple[dict[str, Any], list[Job]]:
    response, jobs = post(COMPLETIONS, {"model": "demo", "prompt": TEXT, **fields}, play or says(" indeed"))
    assert response.status_code == 200, response.text
    body = response.json()
    for choice in body["choices"]:
        if fields.get("echo") and choice["logprobs"]:  # the SDK's type knows no null for the first token, the API does
            assert choice["logprobs"]["token_logprobs"][0] is choice["logprobs"]["top_logprobs"][0] is None
    if not (fields.get("echo") and "logprobs" in fields):
        Completion.model_validate(body, strict=True)
    return body, jobs


def test_a_prompt_comes_back_before_the_answer() -> None:
    body, jobs = complete(echo=True)
    assert body["choices"][0]["text"] == TEXT + " indeed"
    assert body["choices"][0]["logprobs"] is None
    assert jobs[0].request.params.prompt_logprobs == -1
    body, _ = complete(echo=True, prompt=IDS)
    assert body["choices"][0]["text"] == TEXT + " indeed"


def test_its_tokens_come_back_with_logprobs() -> None:
    body, jobs = complete(echo=True, logprobs=2, n=2)
    assert [job.request.params.prompt_logprobs for job in jobs] == [2, -1]
    for choice in body["choices"]:
        logprobs = choice["logprobs"]
        count = len(IDS) + len(BACKEND.encode(" indeed").ids)
        assert {len(column) for column in logprobs.values()} == {count}
        assert logprobs["token_logprobs"][: len(IDS)] == [None, *(-float(at) for at in range(1, len(IDS)))]
        assert logprobs["top_logprobs"][0] is None
        likely = {BACKEND.decode([1000]): -0.5, BACKEND.decode([1001]): -1.5}
        assert logprobs["top_logprobs"][1] == likely
        offsets = logprobs["text_offset"]
        assert offsets == sorted(offsets)
        for token, offset in zip(logprobs["tokens"], offsets, strict=True):
            assert "�" in token or choice["text"][offset:].startswith(token)


def test_a_prompt_alone_can_be_scored() -> None:
    body, jobs = complete(echo=True, logprobs=1, max_tokens=0)
    assert jobs[0].request.kind == "score"
    assert jobs[0].request.params.max_tokens == 0
    (choice,) = body["choices"]
    assert choice["text"] == TEXT
    assert choice["finish_reason"] == "length"
    assert len(choice["logprobs"]["tokens"]) == len(IDS)
    assert body["usage"]["completion_tokens"] == 0


def test_a_prompt_of_the_whole_context_can_be_scored() -> None:
    prompt = [5] * CARD.context_length
    complete(prompt=prompt, max_tokens=0)
    response, _ = post(COMPLETIONS, {"model": "demo", "prompt": prompt, "max_tokens": 1})
    assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("logprobs", [None, 1])
def test_a_stream_begins_with_its_prompt(logprobs: int | None) -> None:
    wish = {"model": "demo", "prompt": TEXT, "echo": True, "logprobs": logprobs, "n": 2}
    whole, _ = complete(**wish)
    response, jobs = post(COMPLETIONS, {**wish, "stream": True}, says(" indeed"))
    chunks = [one["choices"][0] for one in events(response)]
    for index, choice in enumerate(whole["choices"]):
        own = [chunk for chunk in chunks if chunk["index"] == index]
        assert own[0]["text"] == TEXT
        assert "".join(chunk["text"] for chunk in own) == choice["text"]
        if logprobs is not None:
            assert [job.request.params.prompt_logprobs for job in jobs] == [1, 1]
            for column, expected in choice["logprobs"].items():
                assert [one for chunk in own for one in chunk["logprobs"][column]] == expected


def test_vllms_prompt_logprobs() -> None:
    body, _ = complete(prompt_logprobs=1, n=2)
    for choice in body["choices"]:
        first, *others = choice["prompt_logprobs"]
        assert first is None
        assert [next(iter(one)) for one in others] == [str(token_id) for token_id in IDS[1:]]
        assert others[0][str(IDS[1])] == {"logprob": -1.0, "rank": 2, "decoded_token": BACKEND.decode([IDS[1]])}
        assert others[0]["1000"] == {"logprob": -0.5, "rank": 1, "decoded_token": BACKEND.decode([1000])}
    body, _ = complete(prompt_logprobs=0, return_tokens_as_token_ids=True, prompt=[5, 6])
    assert body["choices"][0]["prompt_logprobs"] == [
        None, {"6": {"logprob": -1.0, "rank": 2, "decoded_token": "token_id:6"}},
    ]  # fmt: skip


def test_what_a_lost_worker_told_already_counts_once() -> None:
    def play(job: Job) -> None:
        job.run()
        job.sink.delta([], told(IDS, 0, 1, 4), None)
        job.sink.delta([], told(IDS, 0, 1, 3), None)  # the next attempt begins anew
        job.sink.delta([], told(IDS, 0, 3), None)
        job.end()

    body, _ = complete(play, prompt_logprobs=0)
    told_ids = [next(iter(one)) for one in body["choices"][0]["prompt_logprobs"][1:]]
    assert told_ids == [str(token_id) for token_id in IDS[1:]]


def test_the_best_of_several_by_logprob_a_token() -> None:
    texts = {0: (" no", -0.9), 1: (" yes and yes and yes", -0.1), 2: (" no no no no", -2.0), 3: (" maybe", -0.5)}

    def play(job: Job) -> None:
        says(*texts[order.index(job)])(job)

    order: list[Job] = []

    def note(job: Job) -> None:
        order.append(job)
        play(job)

    body, jobs = complete(note, best_of=4, n=2, seed=5)
    assert [(one["index"], one["text"]) for one in body["choices"]] == [(0, texts[1][0]), (1, texts[3][0])]
    assert all(one["logprobs"] is None for one in body["choices"])
    assert [job.request.params.logprobs for job in jobs] == [0] * 4
    assert len({job.request.params.seed for job in jobs}) == 4
    all_tokens = sum(len(BACKEND.encode(text).ids) + 1 for text, _ in texts.values())
    assert body["usage"]["completion_tokens"] == all_tokens


def test_tokens_by_their_ids() -> None:
    body, _ = complete(logprobs=2, return_tokens_as_token_ids=True)
    ids = [f"token_id:{one}" for one in BACKEND.encode(" indeed").ids]
    assert body["choices"][0]["logprobs"]["tokens"] == ids
    assert body["choices"][0]["logprobs"]["top_logprobs"][0] == {ids[0]: -0.25, "token_id:7": -3.0}


def test_only_the_end_of_a_prompt_counts_where_asked() -> None:
    body, jobs = complete(truncate_prompt_tokens=3, echo=True)
    assert jobs[0].request.prompt_ids == IDS[-3:]
    assert body["choices"][0]["text"] == BACKEND.decode(IDS[-3:]) + " indeed"
    _, jobs = complete(prompt=[5] * 3000, truncate_prompt_tokens=-1, max_tokens=10)
    assert len(jobs[0].request.prompt_ids) == CARD.context_length - 10


def test_several_prompts_and_choices() -> None:
    body, _ = complete(prompt=["a b", "c"], n=2, echo=True)
    assert [one["text"] for one in body["choices"]] == ["a b indeed", "a b indeed", "c indeed", "c indeed"]
    assert [one["index"] for one in body["choices"]] == [0, 1, 2, 3]


def test_a_long_prompts_logprobs_are_shaped_off_the_loop() -> None:
    prompt = [5] * (MANY_SCORES + 2)
    body, _ = complete(prompt=prompt, prompt_logprobs=3)
    assert len(body["choices"][0]["prompt_logprobs"]) == len(prompt)


def test_chat_has_vllms_prompt_logprobs_too() -> None:
    messages = [{"role": "user", "content": TEXT}]
    response, jobs = post(CHAT, {"model": "demo", "messages": messages, "prompt_logprobs": 0, "n": 2}, says(" indeed"))
    told_ids = [next(iter(one)) for one in response.json()["prompt_logprobs"][1:]]
    assert told_ids == [str(token_id) for token_id in jobs[0].request.prompt_ids[1:]]
    assert "prompt_logprobs" not in post(CHAT, {"model": "demo", "messages": messages})[0].json()
