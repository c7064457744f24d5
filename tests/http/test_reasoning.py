"""Wishes about reasoning: many clients' words for them, and what each template is told."""

from typing import Any

import pytest

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.formats.registry import recognise
from tokenyard.http.reasoning import template_kwargs
from tokenyard.http.schemas import ChatRequest, parse_chat

QWEN = "{% if enable_thinking is defined and not enable_thinking %}<think>{% endif %}"
DEEPSEEK = "{% if not thinking is defined %}{% set thinking = false %}{% endif %}<think>"
HARMONY = "<|channel|><|message|>{{ reasoning_effort }}"
ALWAYS = "<think>"
PLAIN = "{{ messages }}"


def parse(**fields: Any) -> ChatRequest:
    return parse_chat({"model": "demo", "messages": [{"role": "user", "content": "hi"}], **fields})


def told(template: str, **fields: Any) -> dict[str, Any]:
    request = parse(**fields)
    speech = recognise(template)
    return template_kwargs(template, speech, request.think, request.think_param, request.reasoning_effort)


@pytest.mark.parametrize(
    ("template", "fields", "kwargs"),
    [
        (QWEN, {}, {}),
        (QWEN, {"enable_thinking": False}, {"enable_thinking": False}),
        (QWEN, {"thinking": {"type": "enabled"}}, {"enable_thinking": True}),
        (QWEN, {"thinking": False}, {"enable_thinking": False}),
        (QWEN, {"reasoning": {"enabled": True, "exclude": True}}, {"enable_thinking": True}),
        (QWEN, {"reasoning_effort": "none"}, {"enable_thinking": False}),
        (QWEN, {"reasoning": {"effort": "high"}}, {"enable_thinking": True}),
        (QWEN, {"enable_thinking": False, "reasoning_effort": "high"}, {"enable_thinking": False}),
        (DEEPSEEK, {"enable_thinking": True}, {"thinking": True}),
        (HARMONY, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        (PLAIN, {"enable_thinking": False, "reasoning_effort": "none"}, {}),
    ],
)
def test_templates_are_told(template: str, fields: dict[str, Any], kwargs: dict[str, Any]) -> None:
    assert told(template, **fields) == kwargs


@pytest.mark.parametrize(
    ("template", "fields", "param"),
    [
        (PLAIN, {"enable_thinking": True}, "enable_thinking"),
        (PLAIN, {"thinking": {"type": "enabled"}}, "thinking"),
        (PLAIN, {"reasoning": {"enabled": True}}, "reasoning.enabled"),
        (PLAIN, {"reasoning_effort": "low"}, "reasoning_effort"),
        (ALWAYS, {"enable_thinking": False}, "enable_thinking"),
        (ALWAYS, {"reasoning_effort": "none"}, "reasoning_effort"),
        (HARMONY, {"enable_thinking": False}, "enable_thinking"),
    ],
)
def test_what_a_model_cannot_follow_is_named(template: str, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        told(template, **fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"enable_thinking": 1}, "enable_thinking"),
        ({"thinking": {"type": "much"}}, "thinking.type"),
        ({"thinking": "yes"}, "thinking"),
        ({"enable_thinking": True, "thinking": False}, "thinking"),
        ({"thinking": True, "reasoning": {"enabled": False}}, "reasoning.enabled"),
        ({"reasoning": "much"}, "reasoning"),
        ({"reasoning": {"max_tokens": 5}}, "reasoning.max_tokens"),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"thinking_token_budget": 100}, "thinking_token_budget"),
    ],
)
def test_wishes_that_are_none(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        parse(**fields)
    assert caught.value.param == param


def test_thoughts_may_be_kept_back() -> None:
    assert parse().include_reasoning
    assert not parse(include_reasoning=False).include_reasoning
    assert not parse(reasoning={"exclude": True}).include_reasoning
