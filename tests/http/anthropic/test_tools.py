"""Tools and tool choices, brought to OpenAI's terms or refused by name."""

from typing import Any

import pytest

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.anthropic.tools import ToolChoice, read_tool_choice, read_tools

ADD = {"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}


def test_tools_become_functions() -> None:
    noted = {**ADD, "type": "custom", "cache_control": {"type": "ephemeral"}, "defer_loading": True}
    function = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}
    assert read_tools([noted]) == [{"type": "function", "function": function}]
    (strict,) = read_tools([{**ADD, "strict": True, "allowed_callers": ["direct"]}])
    assert strict["function"]["strict"] is True


def test_examples_join_the_description() -> None:
    (tool,) = read_tools([{**ADD, "input_examples": [{"a": 1}, {"a": 2}]}])
    assert tool["function"]["description"] == 'Adds.\n\nExamples of input:\n{"a":1}\n{"a":2}'


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        (5, "tools.0"),
        ({**ADD, "type": "web_search_20250305"}, "tools.0.type"),
        ({**ADD, "type": "computer_20250124"}, "tools.0.type"),
        ({"input_schema": {}}, "tools.0.name"),
        ({**ADD, "name": "x" * 129}, "tools.0.name"),
        ({"name": "add"}, "tools.0.input_schema"),
        ({**ADD, "description": 1}, "tools.0.description"),
        ({**ADD, "strict": 1}, "tools.0.strict"),
        ({**ADD, "input_examples": {}}, "tools.0.input_examples"),
        ({**ADD, "allowed_callers": ["code_execution_20250825"]}, "tools.0.allowed_callers"),
    ],
)
def test_bad_tools_are_refused_by_name(tool: Any, param: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        read_tools([tool])
    assert caught.value.param == param


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(TokenyardError) as caught:
        read_tools([ADD, {**ADD, "name": "other"}, ADD])
    assert caught.value.param == "tools.2.name"


NAMED = {"type": "function", "function": {"name": "add"}}


@pytest.mark.parametrize(
    ("raw", "choice"),
    [
        (None, ToolChoice(None, True)),
        ({"type": "auto"}, ToolChoice("auto", True)),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice("auto", False)),
        ({"type": "any", "disable_parallel_tool_use": False}, ToolChoice("required", True)),
        ({"type": "tool", "name": "add"}, ToolChoice(NAMED, True)),
        ({"type": "none"}, ToolChoice("none", True)),
    ],
)
def test_choices(raw: Any, choice: ToolChoice) -> None:
    assert read_tool_choice(raw, read_tools([ADD])) == choice


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        ({"type": "required"}, "tool_choice.type"),
        ({"type": "tool"}, "tool_choice.name"),
        ({"type": "tool", "name": "other"}, "tool_choice.name"),
        ({"type": "auto", "disable_parallel_tool_use": 1}, "tool_choice.disable_parallel_tool_use"),
    ],
)
def test_bad_choices_are_refused_by_name(raw: Any, param: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        read_tool_choice(raw, read_tools([ADD]))
    assert caught.value.param == param


def test_a_forced_choice_needs_tools() -> None:
    with pytest.raises(TokenyardError) as caught:
        read_tool_choice({"type": "any"}, [])
    assert caught.value.param == "tool_choice"
    assert read_tool_choice({"type": "auto"}, []).choice == "auto"
