"""The tools of a request: which of them may be called in this turn, and whether one must be.

Knows no model: in which format a call is written, and how one is forced, is formats/'s business.
"""

from typing import Any, NamedTuple

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.checks import array, boolean, instance, string
from tokenyard.http.errors import invalid
from tokenyard.http.json_schemas import check_schema

ANY_ARGUMENTS: dict[str, Any] = {"type": "object"}

function_name = string(1, 256)
_functions = array(instance(dict, words="an object"), 1)


class Tool(NamedTuple):
    """One function that may be called."""

    name: str
    parameters: dict[str, Any]
    """Its arguments' JSON Schema, as the client wrote it."""
    strict: bool
    """Whether its arguments must match the schema whenever it is called."""
    param: str
    """The request's field that holds it."""

    def enforceable(self) -> dict[str, Any]:
        """The schema as far as arguments can be held to it: of a tool that is not strict, any object may have to do.

        Raises TokenyardError naming the keyword that a strict tool has and nobody can enforce.
        """
        try:
            check_schema(self.parameters, f"{self.param}.function.parameters")
        except TokenyardError:
            if self.strict:
                raise
            return ANY_ARGUMENTS
        return self.parameters or ANY_ARGUMENTS


class Calling(NamedTuple):
    """What a turn may do with tools."""

    tools: list[Tool]
    """Those that may be called; the prompt may show more."""
    required: bool
    """Whether one of them must be called, and nothing may be said."""
    restricted: bool
    """Whether the prompt shows tools that must not be called."""
    many: bool
    """Whether several calls may come at once."""


def read_tools(raw: list[Any]) -> list[dict[str, Any]]:
    """Function tools for the template. Raises TokenyardError naming the tool and its part."""
    for index, tool in enumerate(raw):
        param = f"tools.{index}"
        if type(tool) is not dict:
            invalid(param, "must be an object")
        if tool.get("type") != "function":
            invalid(f"{param}.type", "must be 'function'")
        function = tool.get("function")
        if type(function) is not dict:
            invalid(f"{param}.function", "must be an object")
        function_name(function.get("name"), f"{param}.function.name")
        if not isinstance(function.get("parameters", {}), dict | None):
            invalid(f"{param}.function.parameters", "must be a JSON schema")
        if function.get("strict") is not None:
            boolean(function["strict"], f"{param}.function.strict")
    return raw


def read_calling(raw: list[Any], choice: Any, parallel: bool) -> Calling:
    """What `tool_choice` and `parallel_tool_calls` make of checked tools.

    Raises TokenyardError naming the part of tool_choice that cannot be.
    """
    tools = [_tool(tool["function"], f"tools.{index}") for index, tool in enumerate(raw)]
    if choice == "none":
        return Calling([], required=False, restricted=False, many=False)
    if choice in (None, "auto"):
        return Calling(tools, required=False, restricted=False, many=parallel)
    if not tools:
        invalid("tool_choice", "needs tools")
    if choice == "required":
        return Calling(tools, required=True, restricted=False, many=parallel)
    kind = choice.get("type") if type(choice) is dict else None
    if kind == "function":
        return Calling(_named(tools, [choice], "tool_choice"), required=True, restricted=True, many=False)
    if kind == "allowed_tools":
        return _allowed(tools, choice.get("allowed_tools"), parallel)
    return invalid("tool_choice", "must be 'none', 'auto', 'required', or an object of type function or allowed_tools")


def _tool(function: dict[str, Any], param: str) -> Tool:
    return Tool(function["name"], function.get("parameters") or {}, function.get("strict") is True, param)


def _allowed(tools: list[Tool], allowed: Any, parallel: bool) -> Calling:
    param = "tool_choice.allowed_tools"
    if type(allowed) is not dict:
        invalid(param, "must be an object with a mode and tools")
    if allowed.get("mode") not in ("auto", "required"):
        invalid(f"{param}.mode", "must be 'auto' or 'required'")
    chosen = _named(tools, _functions(allowed.get("tools"), f"{param}.tools"), f"{param}.tools.{{}}")
    required = allowed["mode"] == "required"
    return Calling(chosen, required, restricted=len(chosen) < len(tools), many=parallel)


def _named(tools: list[Tool], choices: list[Any], param: str) -> list[Tool]:
    """The tools that these choices name, in the order of the tools; `param` may have a place for a choice's index."""
    names = set()
    for index, choice in enumerate(choices):
        at = param.format(index)
        if choice.get("type") != "function":
            invalid(f"{at}.type", "must be 'function'")
        function = choice.get("function")
        name = function_name(function.get("name") if type(function) is dict else None, f"{at}.function.name")
        if all(tool.name != name for tool in tools):
            invalid(f"{at}.function.name", f"names {name!r}, which is not among the tools")
        names.add(name)
    return [tool for tool in tools if tool.name in names]
