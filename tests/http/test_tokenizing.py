"""What a model is given: texts and conversations as tokens and back, and the rendered template."""

from typing import Any

import pytest
from front import CHAT, ask, post
from models import CARD, demo_tokenizer
from scripted import ScriptedPool

MESSAGES = [{"role": "user", "content": "Hello!"}]
TOOL = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": {"type": "object"}}}


def call(path: str, **body: Any) -> Any:
    response, jobs = post(path, body)
    assert response.status_code == 200, response.text
    assert not jobs
    return response.json()


def test_a_text_there_and_back() -> None:
    body = call("/tokenize", model="demo", prompt="Hello <|im_end|> 🤖", return_token_strs=True)
    ids = demo_tokenizer().backend.encode("Hello <|im_end|> 🤖").ids
    assert body["tokens"] == ids
    assert (body["count"], body["max_model_len"]) == (len(ids), CARD.context_length)
    assert len(body["token_strs"]) == len(ids)
    assert "<|im_end|>" in body["token_strs"]
    assert call("/detokenize", tokens=ids) == {"prompt": "Hello <|im_end|> 🤖"}
    assert call("/tokenize", prompt="")["tokens"] == []


def test_a_conversation_is_what_chat_gives_to_the_model() -> None:
    given = {"messages": MESSAGES, "tools": [TOOL], "model": "demo"}
    _, (job,) = post(CHAT, given)
    assert call("/tokenize", **given)["tokens"] == job.request.prompt_ids
    text = call("/apply-template", **given)["prompt"]
    assert demo_tokenizer().backend.encode(text).ids == job.request.prompt_ids
    assert '"add"' in text
    assert text.endswith("<|im_start|>assistant\n")
    assert not call("/apply-template", messages=MESSAGES, add_generation_prompt=False)["prompt"].endswith("assistant\n")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": MESSAGES, "return_token_strs": 1}, "return_token_strs"),
        ("/tokenize", {"messages": MESSAGES, "prompt": "a"}, "prompt"),
        ("/tokenize", {"messages": MESSAGES, "add_special_tokens": True}, "add_special_tokens"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens.0"),
        ("/detokenize", {"tokens": [-1]}, "tokens.0"),
        ("/apply-template", {}, "messages"),
        ("/apply-template", {"messages": [{"role": "king"}]}, "messages.0.role"),
        ("/tokenize", {"prompt": "a", "model": "none"}, "model"),
    ],
)
def test_bad_input_is_named(path: str, body: dict[str, Any], param: str) -> None:
    response, _ = post(path, body)
    assert 400 <= response.status_code < 500
    assert response.json()["error"]["param"] == param


def test_several_models_must_be_told_apart() -> None:
    pool = ScriptedPool(CARD, CARD._replace(names=["other"]))
    response = ask(pool, "POST", "/tokenize", json={"prompt": "a"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "model")
