"""Tools of a request: who is offered, under which name, and which choices are possible."""

from typing import Any

import pytest

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.responses.toolbox import Offer, Toolbox

ADD = {"type": "function", "name": "add", "description": "Adds.", "parameters": {"type": "object"}, "strict": True}
PATCH = {
    "type": "custom",
    "name": "patch",
    "description": "Patches.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /x/"},
}
SHOP = {
    "type": "namespace",
    "name": "shop",
    "description": "Buys.",
    "tools": [{"type": "function", "name": "buy"}, PATCH],
}


def toolbox(*tools: Any) -> Toolbox:
    box = Toolbox()
    box.add(list(tools), "tools")
    return box


def test_functions_go_to_the_template_in_chats_shape() -> None:
    box = toolbox({"type": "web_search"}, ADD)
    function = {"name": "add", "description": "Adds.", "strict": True, "parameters": {"type": "object"}}
    assert box.tools == [{"type": "function", "function": function}]
    assert box.shown == [ADD]
    assert box.paths == ["tools.1"]


def test_namespaces_are_flattened_for_the_model_only() -> None:
    box = toolbox(SHOP)
    assert box.offers == {
        "shop__buy": Offer("function", "buy", "shop"),
        "shop__patch": Offer("custom", "patch", "shop"),
    }
    assert box.paths == ["tools.0.tools.0", "tools.0.tools.1"]
    assert [tool["name"] for tool in box.shown[0]["tools"]] == ["buy", "patch"]


def test_a_custom_tool_is_a_function_of_one_text() -> None:
    box = toolbox(PATCH)
    function = box.tools[0]["function"]
    assert list(function["parameters"]["properties"]) == ["input"]
    assert function["description"] == "Patches.\n\nThe input must match this lark grammar:\nstart: /x/"
    assert box.shown == [PATCH]


@pytest.mark.parametrize("kind", ["web_search", "file_search", "code_interpreter", "tool_search", "of_tomorrow"])
def test_tools_that_are_nobodys_here_are_not_offered_and_not_shown(kind: str) -> None:
    box = toolbox({"type": kind})
    assert (box.offers, box.tools, box.shown) == ({}, [], [])


BAD_TOOLS: list[tuple[Any, str]] = [
    (5, "tools.0.type"),
    ({}, "tools.0.type"),
    ({"type": "function"}, "tools.0.name"),
    ({"type": "function", "name": ""}, "tools.0.name"),
    ({**ADD, "description": 5}, "tools.0.description"),
    ({**ADD, "parameters": []}, "tools.0.parameters"),
    ({**PATCH, "format": {"type": "xml"}}, "tools.0.format"),
    ({**PATCH, "format": {"type": "grammar"}}, "tools.0.format.definition"),
    ({"type": "namespace", "name": "x"}, "tools.0.tools"),
    ({"type": "namespace", "name": "x", "tools": [{"type": "function"}]}, "tools.0.tools.0.name"),
]


@pytest.mark.parametrize(("tool", "param"), BAD_TOOLS)
def test_malformed_tools_are_refused_by_their_path(tool: Any, param: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        toolbox(tool)
    assert caught.value.param == param


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(TokenyardError) as caught:
        toolbox(ADD, ADD)
    assert caught.value.param == "tools.1.name"


@pytest.mark.parametrize(
    ("choice", "chats"),
    [
        (None, None),
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "add"}, {"type": "function", "function": {"name": "add"}}),
        ({"type": "custom", "name": "patch"}, {"type": "function", "function": {"name": "patch"}}),
        (
            {"type": "function", "name": "buy", "namespace": "shop"},
            {"type": "function", "function": {"name": "shop__buy"}},
        ),
    ],
)
def test_choices_in_chats_shape(choice: Any, chats: Any) -> None:
    assert toolbox(ADD, PATCH, SHOP).choose(choice) == chats


def test_allowed_tools_in_chats_shape() -> None:
    named = [{"type": "custom", "name": "patch"}, {"type": "function", "name": "buy", "namespace": "shop"}]
    chats = [{"type": "function", "function": {"name": name}} for name in ("patch", "shop__buy")]
    choice = toolbox(ADD, PATCH, SHOP).choose({"type": "allowed_tools", "mode": "required", "tools": named})
    assert choice == {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": chats}}


BAD_CHOICES: list[tuple[Any, str]] = [
    ("any", "tool_choice"),
    (5, "tool_choice"),
    ({"type": "web_search"}, "tool_choice.type"),
    ({"type": "file_search", "server_label": "x"}, "tool_choice.type"),
    ({"type": "function"}, "tool_choice.name"),
    ({"type": "function", "name": "sub"}, "tool_choice.name"),
    ({"type": "allowed_tools", "mode": "maybe", "tools": []}, "tool_choice.mode"),
    ({"type": "allowed_tools", "tools": []}, "tool_choice.tools"),
    ({"type": "allowed_tools", "tools": [{"type": "function", "name": "sub"}]}, "tool_choice.tools.0.name"),
]


@pytest.mark.parametrize(("choice", "param"), BAD_CHOICES)
def test_impossible_choices_are_refused_by_name(choice: Any, param: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        toolbox(ADD).choose(choice)
    assert caught.value.param == param


def test_required_needs_a_tool_that_can_be_called() -> None:
    with pytest.raises(TokenyardError):
        toolbox({"type": "web_search"}).choose("required")
