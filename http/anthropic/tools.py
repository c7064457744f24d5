"""Tools and the choice among them, from Anthropic's shapes to those that chat templates expect."""

from typing import Any, NamedTuple

import orjson

from tokenyard.http.anthropic.mcp import is_toolset
from tokenyard.http.checks import boolean, instance, string
from tokenyard.http.errors import invalid

tool_name = string(1, 128)
"""Anthropic's limit."""

_schema = instance(dict, words="a JSON Schema: an object")
_description = string(0, 1 << 20)


class ToolChoice(NamedTuple):
    """In OpenAI's terms."""

    choice: Any = None
    parallel: bool = True


def read_tools(raw: list[Any]) -> list[dict[str, Any]]:
    """Tools as functions, in their order, without toolsets. Raises TokenyardError naming the tool and its part."""
    tools = [_tool(tool, f"tools.{index}") for index, tool in enumerate(raw) if not is_toolset(tool)]
    names = [tool["function"]["name"] for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            invalid(f"tools.{index}.name", f"{name!r} is taken by another tool")
    return tools


def _tool(tool: Any, param: str) -> dict[str, Any]:
    if type(tool) is not dict:
        invalid(param, "must be an object")
    kind = tool.get("type")
    if kind not in (None, "custom"):
        invalid(f"{param}.type", f"must be 'custom': there is nobody here to run {str(kind)[:60]!r}")
    function: dict[str, Any] = {"name": tool_name(tool.get("name"), f"{param}.name")}
    if tool.get("description") is not None:
        function["description"] = _description(tool["description"], f"{param}.description")
    function["parameters"] = _schema(tool.get("input_schema"), f"{param}.input_schema")
    if tool.get("input_examples") is not None:
        examples = _examples(tool["input_examples"], f"{param}.input_examples")
        function["description"] = f"{function.get('description', '')}\n\nExamples of input:\n{examples}".lstrip()
    if tool.get("strict") is not None:
        function["strict"] = boolean(tool["strict"], f"{param}.strict")
    callers = tool.get("allowed_callers")
    if callers is not None and (type(callers) is not list or "direct" not in callers):
        invalid(f"{param}.allowed_callers", "must hold 'direct': no code is run here")
    return {"type": "function", "function": function}


def _examples(raw: Any, param: str) -> str:
    """Templates have no place for examples but the description."""
    if type(raw) is not list:
        invalid(param, "must be a list")
    return "\n".join(orjson.dumps(example).decode() for example in raw)


def read_tool_choice(raw: dict[str, Any] | None, tools: list[dict[str, Any]], has_servers: bool = False) -> ToolChoice:
    """Raises TokenyardError for a choice that these tools, and those of servers if there are some, do not leave."""
    if raw is None:
        return ToolChoice()
    kind = raw.get("type")
    if kind not in ("auto", "any", "tool", "none"):
        invalid("tool_choice.type", "must be one of auto, any, tool, none")
    if kind in ("any", "tool") and not tools and not has_servers:
        invalid("tool_choice", "needs tools")
    single = raw.get("disable_parallel_tool_use")
    parallel = not (single is not None and boolean(single, "tool_choice.disable_parallel_tool_use"))
    if kind != "tool":
        return ToolChoice("required" if kind == "any" else kind, parallel)
    name = tool_name(raw.get("name"), "tool_choice.name")
    if name not in (tool["function"]["name"] for tool in tools) and not has_servers:
        invalid("tool_choice.name", f"{name!r} is not one of the tools")
    return ToolChoice({"type": "function", "function": {"name": name}}, parallel)
