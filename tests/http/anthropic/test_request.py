"""Thinking and effort in the words of a model's chat template."""

import pytest

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.anthropic.fields import Thinking
from tokenyard.http.anthropic.request import MessagesRequest, set_reasoning

SWITCH, EFFORT, NEITHER = "{{ enable_thinking }}", "{{ reasoning_effort }}", "{{ messages }}"


def request(thinking: str | None, effort: str | None) -> MessagesRequest:
    said = None if thinking is None else Thinking(thinking, omitted=False)
    return MessagesRequest(model="m", messages=[{"role": "user", "content": "hi"}], thinking=said, effort=effort)


@pytest.mark.parametrize(
    ("template", "thinking", "effort", "said"),
    [
        (SWITCH, None, None, None),
        (SWITCH, None, "high", None),
        (SWITCH, "enabled", None, "high"),
        (SWITCH, "adaptive", "low", "high"),
        (SWITCH, "disabled", "high", "none"),
        (EFFORT, None, None, None),
        (EFFORT, "adaptive", "low", "low"),
        (EFFORT, "enabled", "xhigh", "high"),
        (EFFORT, None, "max", "high"),
        (EFFORT, "disabled", None, "none"),
        (NEITHER, None, "high", None),
        (NEITHER, "adaptive", "high", None),
        (NEITHER, "disabled", None, "none"),
    ],
)
def test_what_a_template_is_told(template: str, thinking: str | None, effort: str | None, said: str | None) -> None:
    wish = request(thinking, effort)
    set_reasoning(wish, template)
    assert wish.reasoning_effort == said


def test_a_model_that_cannot_think_cannot_be_made_to() -> None:
    with pytest.raises(TokenyardError) as caught:
        set_reasoning(request("enabled", None), NEITHER)
    assert caught.value.param == "thinking.type"
