"""Which tools a request lets a turn call, and words for what is none."""

from typing import Any

import pytest

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.tools import ANY_ARGUMENTS, Calling, read_calling, read_tools


def tool(name: str, **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


TOOLS = [tool("add", parameters={"type": "object"}, strict=True), tool("now"), tool("sub", strict=None)]


def calling(choice: Any, parallel: bool = True) -> Calling:
    return read_calling(read_tools(TOOLS), choice, parallel)


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: Any, *tools: Any) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}


@pytest.mark.parametrize(
    ("choice", "names", "required", "restricted", "many"),
    [
        (None, "add now sub", False, False, True),
        ("auto", "add now sub", False, False, True),
        ("none", "", False, False, False),
        ("required", "add now sub", True, False, True),
        (named("now"), "now", True, True, False),
        (allowed("auto", named("sub"), named("add")), "add sub", False, True, True),
        (allowed("required", named("sub")), "sub", True, True, True),
        (allowed("auto", *map(named, ("add", "now", "sub"))), "add now sub", False, False, True),
    ],
)
def test_choices(choice: Any, names: str, required: bool, restricted: bool, many: bool) -> None:
    made = calling(choice)
    assert [one.name for one in made.tools] == names.split()
    assert made[1:] == (required, restricted, many)
    assert not calling(choice, parallel=False).many


def test_no_tools_at_all() -> None:
    assert read_calling([], None, True).tools == read_calling([], "auto", True).tools == []


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        (1, "tool_choice"),
        ("any", "tool_choice"),
        ({"type": "web_search"}, "tool_choice"),
        (named("f"), "tool_choice.function.name"),
        ({"type": "function"}, "tool_choice.function.name"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools"),
        (allowed("all", named("add")), "tool_choice.allowed_tools.mode"),
        (allowed("auto"), "tool_choice.allowed_tools.tools"),
        (allowed("auto", 1), "tool_choice.allowed_tools.tools.0"),
        (allowed("auto", named("add"), named("f")), "tool_choice.allowed_tools.tools.1.function.name"),
        (allowed("auto", {"type": "mcp"}), "tool_choice.allowed_tools.tools.0.type"),
    ],
)
def test_choices_that_are_none(choice: Any, param: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        calling(choice)
    assert caught.value.param == param


@pytest.mark.parametrize("choice", ["required", named("add")])
def test_forcing_needs_tools(choice: Any) -> None:
    with pytest.raises(TokenyardError) as caught:
        read_calling([], choice, True)
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        (1, "tools.1"),
        ({"type": "web_search"}, "tools.1.type"),
        ({"type": "function"}, "tools.1.function"),
        ({"type": "function", "function": {}}, "tools.1.function.name"),
        (tool("f", parameters="x"), "tools.1.function.parameters"),
        (tool("f", strict="yes"), "tools.1.function.strict"),
    ],
)
def test_tools_are_checked(wrong: Any, param: str) -> None:
    assert read_tools(TOOLS) == TOOLS
    with pytest.raises(TokenyardError) as caught:
        read_tools([TOOLS[0], wrong])
    assert caught.value.param == param


def test_only_strict_schemas_must_be_enforceable() -> None:
    parameters = {"type": "object", "properties": {"a": {"not": {}}}}
    loose, strict = (read_calling([tool("f", parameters=parameters, strict=one)], None, True) for one in (False, True))
    assert loose.tools[0].enforceable() == ANY_ARGUMENTS
    with pytest.raises(TokenyardError) as caught:
        strict.tools[0].enforceable()
    assert caught.value.param == "tools.0.function.parameters.properties.a.not"
