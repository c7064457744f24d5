"""Prompts: rendered by the model's own template and tokenized as transformers does, or refused by name."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from models import CARD, DEMO, demo_tokenizer
from transformers import PreTrainedTokenizerFast

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.library import LoadedTokenizer
from tokenyard.http.prompt import LONG_PROMPT_CHARS, Prompt, Prompter
from tokenyard.http.schemas import parse_chat, parse_completion

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def with_template(template: str | None) -> LoadedTokenizer:
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(DEMO)
    tokenizer.chat_template = template
    return LoadedTokenizer(tokenizer)


def chat(loaded: LoadedTokenizer | None = None, **fields: Any) -> Prompt:
    request = parse_chat({"model": "demo", "messages": [USER], **fields})
    return asyncio.run(Prompter(CARD, loaded or demo_tokenizer()).of_chat(request))


def text(loaded: LoadedTokenizer | None = None, **fields: Any) -> str:
    decoded: str = demo_tokenizer().backend.decode(chat(loaded, **fields).ids, skip_special_tokens=False)
    return decoded


def completion(prompt: Any) -> list[Prompt]:
    request = parse_completion({"model": "demo", "prompt": prompt})
    return asyncio.run(Prompter(CARD, demo_tokenizer()).of_completion(request))


def refused(work: Any, *args: Any, **kwargs: Any) -> TokenyardError:
    with pytest.raises(TokenyardError) as caught:
        work(*args, **kwargs)
    return caught.value


def test_a_chat_is_what_transformers_makes_of_it() -> None:
    expected = demo_tokenizer().chat.apply_chat_template([USER], add_generation_prompt=True, tokenize=True)
    assert chat().ids == expected["input_ids"]  # type: ignore[index, call-overload]


def test_a_trailing_assistant_is_continued_unless_told_otherwise() -> None:
    messages = [USER, {"role": "assistant", "content": "The answer is"}]
    assert text(messages=messages).endswith("assistant\nThe answer is")
    assert text(messages=messages, continue_final_message=True).endswith("assistant\nThe answer is")
    assert text(messages=messages, continue_final_message=False).endswith("is<|im_end|>\n<|im_start|>assistant\n")
    assert text(messages=messages, add_generation_prompt=True).endswith("is<|im_end|>\n<|im_start|>assistant\n")
    assert text(add_generation_prompt=False).endswith("hi<|im_end|>\n")
    assert chat(messages=messages).continued
    assert not chat().continued


def test_continuing_needs_something_to_continue() -> None:
    assert refused(chat, continue_final_message=True).param == "continue_final_message"
    both = {"continue_final_message": True, "add_generation_prompt": True}
    assert (
        refused(chat, messages=[USER, {"role": "assistant", "content": "x"}], **both).param == "continue_final_message"
    )


def test_tools_are_rendered_unless_the_choice_is_none() -> None:
    assert '"name": "add"' in text(tools=[TOOL])
    assert text(tools=[TOOL], tool_choice="none") == text()
    assert refused(chat, with_template("{{ messages[0].content }}"), tools=[TOOL]).param == "tools"


def test_template_kwargs_reach_the_template() -> None:
    assert text(chat_template_kwargs={"enable_thinking": True}).endswith("<think>\n")
    assert text(reasoning_effort="high").endswith("<think>\n")
    assert text(reasoning_effort="none") == text()
    for name in ("tokenize", "self"):
        assert refused(chat, chat_template_kwargs={name: True}).param == f"chat_template_kwargs.{name}"


def test_reasoning_effort_needs_a_template_that_knows_it() -> None:
    plain = with_template("{{ messages[0].content }}")
    assert refused(chat, plain, reasoning_effort="low").param == "reasoning_effort"
    assert text(plain, reasoning_effort="none") == "hi"
    assert text(with_template("{{ reasoning_effort }}"), reasoning_effort="low") == "low"


def test_a_base_model_says_so() -> None:
    error = refused(chat, with_template(None))
    assert error.param == "messages"
    assert "/v1/completions" in error.words


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no system here') }}", "{{ 1 / 0 }}", "{{ x.y.z }}", "{{ ''.__class__.mro() }}"]
)
def test_a_template_that_refuses_or_falls_over_is_a_refusal(template: str) -> None:
    assert refused(chat, with_template(template)).param == "messages"


def test_all_shapes_of_a_completions_prompt() -> None:
    hello = demo_tokenizer().backend.encode("hello").ids
    assert completion("hello") == [Prompt(hello, True, "hello")]
    assert completion(["hello", "hello"]) == [Prompt(hello, True, "hello")] * 2
    assert completion([5, 6]) == [Prompt([5, 6], True)]
    assert completion([[5], [6, 7]]) == [Prompt([5], True), Prompt([6, 7], True)]


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ("", "prompt"),
        ([], "prompt"),
        ([[]], "prompt.0"),
        (["a", ""], "prompt.1"),
        ([1, "a"], "prompt.1"),
        ([1, True], "prompt.1"),
        ([5, 2048], "prompt.1"),
        ([5, -1], "prompt.1"),
        ([[1], [99999]], "prompt.1.0"),
        ([{}], "prompt.0"),
    ],
)
def test_bad_prompts_are_refused_by_name(prompt: Any, param: str) -> None:
    assert refused(completion, prompt).param == param


def test_long_texts_are_tokenized_off_the_loop() -> None:
    async def longest_stall() -> float:
        loop = asyncio.get_running_loop()
        request = parse_completion({"model": "demo", "prompt": "some words " * 60_000})
        work: Coroutine[Any, Any, list[Prompt]] = Prompter(CARD, demo_tokenizer()).of_completion(request)
        task, stall = asyncio.ensure_future(work), 0.0
        began = loop.time()
        while not task.done():
            last = loop.time()
            await asyncio.sleep(0)
            stall = max(stall, loop.time() - last)
        took = loop.time() - began
        return stall / took

    assert LONG_PROMPT_CHARS < 600_000
    # Were it done on the loop, the one stall would be all of the time.
    assert asyncio.run(longest_stall()) < 0.5


def test_a_prompt_far_beyond_the_context_is_refused_by_its_beginning() -> None:
    error = refused(chat, messages=[{"role": "user", "content": "1 " * 500_000}])
    assert (error.code, error.param) == ("context_length_exceeded", "messages")
    assert "more than 2048 tokens" in str(error)
    assert refused(completion, ["x", "1 " * 500_000]).param == "prompt.1"


def test_a_long_conversation_is_rendered_as_a_short_one_is() -> None:
    turns = [USER, {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]}] * 40
    expected = demo_tokenizer().chat.apply_chat_template(
        [USER, {"role": "assistant", "content": "Hello."}] * 40 + [USER], add_generation_prompt=True, tokenize=False
    )
    assert chat(messages=[*turns, USER]).text == expected
    assert refused(chat, messages=[*turns, {"role": "wizard"}]).param == "messages.80.role"


def test_of_a_text_far_too_long_the_end_can_be_kept() -> None:
    words = " ".join(map(str, range(100_000)))
    expected = demo_tokenizer().backend.encode(words, add_special_tokens=False).ids[-1000:]
    request = parse_completion({"model": "demo", "prompt": words, "truncate_prompt_tokens": 1000})
    (prompt,) = asyncio.run(Prompter(CARD, demo_tokenizer()).of_completion(request))
    assert prompt.ids == expected
    request.truncate_prompt_tokens = 10_000
    error = refused(lambda: asyncio.run(Prompter(CARD, demo_tokenizer()).of_completion(request)))
    assert error.code == "context_length_exceeded"


def test_a_conversation_can_be_counted_however_long_it_is() -> None:
    prompter = Prompter(CARD, demo_tokenizer())
    for text, least in (("hi", 5), ("1 " * 500_000, 900_000)):
        request = parse_chat({"model": "demo", "messages": [{"role": "user", "content": text}]})
        assert asyncio.run(prompter.count_chat(request)) >= least
    assert asyncio.run(prompter.count_chat(parse_chat({"model": "demo", "messages": [USER]}))) == len(chat().ids)


def test_templates_that_print_arguments_as_they_are_get_them_written() -> None:
    """As DeepSeek's does."""
    template = "{% for m in messages if m.tool_calls %}{{ '>' + m.tool_calls[0].function.arguments }}{% endfor %}"
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [call]}, USER]
    assert text(with_template(template), messages=messages) == '>{"a": 1}'
