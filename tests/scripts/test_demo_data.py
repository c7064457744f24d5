"""The demo model's chats: reproducible, disjoint between splits, renderable, and masked to what the model says."""

import itertools
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import _compile_jinja_template as compile_template

from tokenyard.scripts import demo_data, demo_tokenizer
from tokenyard.scripts import demo_words as words
from tokenyard.scripts.demo_data import Chat

MODEL_DIR = Path(demo_data.__file__).resolve().parent.parent / "workers" / "demo_model"
JSON_TYPES: dict[str, Any] = {"string": str, "integer": int, "number": (int, float)}
TOOL_KINDS = ("call_1", "call_2_3", "call_4_6", "answer", "refuse")
HELD_OUT = dict.fromkeys((*TOOL_KINDS, *demo_data.PLAIN_SHARES), 6)


def train_sample(count: int = 300) -> list[Chat]:
    """Some of the copies that training begins with, and as many of the mixed chats that follow."""
    easy = itertools.islice(demo_data.train_chats(), count)
    mixed = itertools.islice(demo_data.train_chats(), demo_data.NUM_EASY_CHATS, demo_data.NUM_EASY_CHATS + count)
    return [*easy, *mixed]


@pytest.fixture(scope="module")
def chats() -> list[Chat]:
    return train_sample()


@pytest.fixture(scope="module")
def unseen() -> list[Chat]:
    return demo_data.held_out_chats("unseen", HELD_OUT)


@pytest.fixture(scope="module")
def template() -> Any:
    return compile_template((MODEL_DIR / "chat_template.jinja").read_text(encoding="utf-8"))


def calls_of(chat: Chat) -> Iterator[dict[str, Any]]:
    for message in chat.messages:
        yield from (call["function"] for call in message.get("tool_calls", []))


def check_call(call: dict[str, Any], chat: Chat) -> None:
    """The call names a tool on offer and fits its parameters."""
    (schema,) = [t["function"]["parameters"] for t in chat.tools if t["function"]["name"] == call["name"]]
    assert set(schema["required"]) <= set(call["arguments"]) <= set(schema["properties"])
    for name, value in call["arguments"].items():
        assert isinstance(value, JSON_TYPES[schema["properties"][name]["type"]])
        assert value in schema["properties"][name].get("enum", [value])


def test_the_stream_is_a_function_of_the_seed() -> None:
    first, again, other = (
        [chat.key() for chat in itertools.islice(demo_data.train_chats(seed), 50)] for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_every_chat_ends_with_the_assistant(chats: list[Chat], unseen: list[Chat]) -> None:
    assert all(chat.messages[-1]["role"] == "assistant" for chat in chats + unseen)


def test_tool_calls_fit_their_schemas(chats: list[Chat], unseen: list[Chat]) -> None:
    calls = [(call, chat) for chat in chats + unseen for call in calls_of(chat)]
    assert len(calls) > 100
    for call, chat in calls:
        check_call(call, chat)


def test_a_fifth_of_the_tool_chats_end_in_a_refusal(chats: list[Chat]) -> None:
    mixed = [chat for chat in chats[300:] if chat.tools]
    refusals = [chat for chat in mixed if chat.messages[-1]["content"] == demo_data.REFUSAL]
    assert 0.12 < len(refusals) / len(mixed) < 0.28


def test_unseen_tools_are_never_on_offer_in_training(chats: list[Chat], unseen: list[Chat]) -> None:
    trained = {tool["function"]["name"] for chat in chats for tool in chat.tools}
    called = {call["name"] for chat in unseen for call in calls_of(chat)}
    assert called
    assert not called & trained


def test_lexicons_are_disjoint() -> None:
    rng = random.Random(3)
    trained = {words.word(rng, "train").lower() for _ in range(400)}
    unseen = {words.word(rng, "unseen").lower() for _ in range(400)}
    assert not trained & unseen
    assert all(words.belongs(word, "train") for word in words.PINNED)


def test_invented_words_are_polite() -> None:
    rng = random.Random(4)
    assert all(words.is_polite(words.rare_word(rng, "train")) for _ in range(400))


def test_fresh_chats_are_not_in_training(chats: list[Chat]) -> None:
    seen = frozenset(chat.key() for chat in demo_data.held_out_chats("train", {"recall": 20}))
    fresh = demo_data.held_out_chats("train", {"recall": 20}, seen)
    assert len(fresh) == 20
    assert not seen & {chat.key() for chat in fresh}


def test_every_chat_renders_and_its_calls_are_json(chats: list[Chat], template: Any) -> None:
    for chat in chats:
        text = demo_tokenizer.render(chat, template)
        answers = "".join(text[start:end] for start, end in demo_tokenizer.supervised_spans(text))
        bodies = re.findall(r"<tool_call>\n(.*?)\n</tool_call>", answers, re.DOTALL)
        assert [json.loads(body) for body in bodies] == list(calls_of(chat))


def test_a_prompt_is_a_prefix_of_its_chat(chats: list[Chat], template: Any) -> None:
    for chat in chats[280:320]:
        assert demo_tokenizer.render(chat, template).startswith(demo_tokenizer.render(chat, template, generate=True))


def test_only_what_the_assistant_says_is_supervised(chats: list[Chat], template: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR).backend_tokenizer
    for chat in chats[280:340]:
        text = demo_tokenizer.render(chat, template)
        ids, mask = demo_tokenizer.encode(text, tokenizer)
        said = tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m], skip_special_tokens=False)
        assert said == "".join(text[start:end] for start, end in demo_tokenizer.supervised_spans(text))
        num_answers = sum(message["role"] == "assistant" for message in chat.messages)
        assert said.count("<|im_end|>") == num_answers


def test_the_opening_of_a_thought_is_not_supervised(template: Any) -> None:
    chat = demo_data.add_thoughts(Chat("echo", [demo_data.user("Say hi"), demo_data.assistant("hi")]))
    text = demo_tokenizer.render(chat, template)
    (span,) = demo_tokenizer.supervised_spans(text)
    assert text[slice(*span)] == "I can answer this directly.\n</think>\n\nhi<|im_end|>"
