"""Structured output on a real server: answers match what was asked, and what cannot be is a 400 that harms nobody."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jsonschema
import openai
import pytest
from yard import Yard

MODEL = "tokenyard-demo"
QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "capital": {"type": "string", "maxLength": 12},
        "population": {"type": "integer", "minimum": 0, "maximum": 99_999_999},
        "river": {"anyOf": [{"type": "string", "maxLength": 12}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"enum": ["city", "port"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["capital", "population", "river", "tags"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "capital", "strict": True, "schema": SCHEMA}}


@pytest.fixture(scope="module")
def sdk(server: Yard) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(sdk: openai.OpenAI, messages: list[Any] = QUESTION, **fields: Any) -> str:
    """A whole answer that ended by itself."""
    choice = sdk.chat.completions.create(model=MODEL, messages=messages, max_tokens=200, **fields).choices[0]
    assert choice.finish_reason == "stop"
    return choice.message.content or ""


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1, "seed": 1}, {"temperature": 1.5, "seed": 2, "top_p": 1}])
def test_answers_fit_their_schema(sdk: openai.OpenAI, sampling: dict[str, Any]) -> None:
    whole = ask(sdk, response_format=FORMAT, **sampling)
    jsonschema.validate(json.loads(whole), SCHEMA)
    stream = sdk.chat.completions.create(
        model=MODEL, messages=QUESTION, response_format=FORMAT, stream=True, **sampling
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole


def test_any_json_object(sdk: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Tell me about Paris as JSON."}]
    assert type(json.loads(ask(sdk, messages, response_format={"type": "json_object"}))) is dict


def test_regex_choice_and_grammar(sdk: openai.OpenAI) -> None:
    assert re.fullmatch("[A-Z][a-z]{2,8}!", ask(sdk, extra_body={"guided_regex": "[A-Z][a-z]{2,8}!"}))
    assert ask(sdk, extra_body={"guided_choice": ["London", "Rome"]}) in ("London", "Rome")
    assert ask(sdk, extra_body={"guided_grammar": 'root ::= "yes" | "no"'}) in ("yes", "no")
    assert ask(sdk, extra_body={"structured_outputs": {"regex": "[0-9]{4}"}}).isdigit()


def test_the_grammars_end_ends_the_answer_whatever_else_is_asked(sdk: openai.OpenAI) -> None:
    for extra in ({"ignore_eos": True}, {"min_tokens": 30}, {"ignore_eos": True, "min_tokens": 30}):
        assert ask(sdk, extra_body={"guided_choice": ["London", "Rome"], **extra}) in ("London", "Rome")


def test_several_choices_and_logprobs(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model=MODEL, messages=QUESTION, response_format=FORMAT, n=3, seed=7, temperature=1, logprobs=True
    )
    for choice in answer.choices:
        jsonschema.validate(json.loads(choice.message.content or ""), SCHEMA)
        assert choice.logprobs is not None
        assert "".join(one.token for one in choice.logprobs.content or []) == choice.message.content


def test_neighbours_are_as_without(sdk: openai.OpenAI) -> None:
    plain = {"temperature": 1, "seed": 3, "max_tokens": 48, "extra_body": {"ignore_eos": True}}

    def run(fields: dict[str, Any]) -> str:
        return sdk.chat.completions.create(model=MODEL, messages=QUESTION, **fields).choices[0].message.content or ""

    alone = run(plain)
    with ThreadPoolExecutor(6) as threads:
        wishes = [plain, {"response_format": FORMAT}] * 3
        answers = list(threads.map(run, wishes))
    assert answers[0::2] == [alone] * 3
    for answer in answers[1::2]:
        jsonschema.validate(json.loads(answer), SCHEMA)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format.json_schema.schema"),
    ({"guided_json": {"type": "strng"}}, "guided_json"),
    ({"guided_json": {"type": "array", "uniqueItems": True}}, "guided_json.uniqueItems"),
    ({"guided_json": {"$ref": "#/$defs/none"}}, "guided_json"),
    ({"guided_regex": "(a"}, "guided_regex"),
    ({"guided_regex": "a(?=b)"}, "guided_regex"),
    ({"guided_grammar": "root ::= nobody"}, "guided_grammar"),
    ({"guided_grammar": "root ::= root"}, "guided_grammar"),
]


@pytest.mark.parametrize("stream", [False, True])
def test_bad_grammars_are_a_400_that_names_the_field_and_harm_nobody(server: Yard, stream: bool) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        for fields, param in BAD:
            wish = {"model": MODEL, "messages": QUESTION, "stream": stream, **fields}
            response = http.post("/v1/chat/completions", json=wish)
            assert response.status_code == 400, (fields, response.text)
            error = response.json()["error"]
            assert error.keys() == {"message", "type", "param", "code"}
            assert (error["type"], error["param"]) == ("invalid_request_error", param)
            assert error["message"].startswith(param)
            assert "project" not in error["message"], "the words are for a client, not for who builds xgrammar"
        wish = {"model": MODEL, "messages": QUESTION, "guided_choice": ["Rome"], "stream": False}
        assert http.post("/v1/chat/completions", json=wish).json()["choices"][0]["message"]["content"] == "Rome"
