"""A request's tools: which the model is offered, under which names, and how its calls come out again.

Hosted tools (web search, code interpreter, ...) are nobody's here: they are not offered, and the response's own list
of tools shows that.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tokenyard.http.checks import instance, string
from tokenyard.http.errors import invalid

_name = string(1, 128)
_description = instance(str, words="a string")
_object = instance(dict, words="a JSON schema: an object")

_INPUT = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The tool's whole input, as plain text."}},
    "required": ["input"],
    "additionalProperties": False,
}
"""A custom tool takes plain text; to the model it is a function with this one argument."""


SHOWN_OF_SERVERS = ("server_label", "server_description", "allowed_tools", "require_approval")
"""What a response says of an MCP server; credentials are refused, and would never be shown."""


class Offer(NamedTuple):
    """A tool that the model may call."""

    kind: str
    """function or custom."""
    name: str
    namespace: str = ""


def offered_name(name: str, namespace: str = "") -> str:
    """What the model knows a tool as: templates have no namespaces."""
    return f"{namespace}__{name}" if namespace else name


@dataclass
class Toolbox:
    """All the tools of one request."""

    offers: dict[str, Offer] = field(default_factory=dict)
    """By the name that the model knows."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    """For the chat template, in chat's shape; as many as offers, in the same order."""
    paths: list[str] = field(default_factory=list)
    """Where in the request each of `tools` stands, for the words of an error."""
    has_servers: bool = False
    """Whether tools of MCP servers are asked for; which those are, is known later."""
    shown: list[dict[str, Any]] = field(default_factory=list)
    """For the response's own list: what is offered, in Responses' shape."""

    def add(self, raw: list[Any], param: str) -> None:
        """More tools. Raises TokenyardError naming the tool and its part."""
        for index, tool in enumerate(raw):
            self._add(tool, f"{param}.{index}")

    def _add(self, tool: Any, param: str) -> None:
        kind = tool.get("type") if type(tool) is dict else None
        if not isinstance(kind, str):
            invalid(f"{param}.type", "must be a string, such as 'function'")
        if kind == "mcp":
            self.has_servers = True
            self.shown.append({"type": "mcp"} | {key: tool[key] for key in SHOWN_OF_SERVERS if key in tool})
        elif kind in ("function", "custom"):
            self.shown.append(self._offer(tool, param))
        elif kind == "namespace":
            name = _name(tool.get("name"), f"{param}.name")
            inner = tool.get("tools")
            if type(inner) is not list:
                invalid(f"{param}.tools", "must be a list")
            kept = [
                self._offer(one, f"{param}.tools.{index}", name)
                for index, one in enumerate(inner)
                if type(one) is dict and one.get("type") in ("function", "custom")
            ]
            description = _description(tool.get("description") or "", f"{param}.description")
            self.shown.append({"type": "namespace", "name": name, "description": description, "tools": kept})

    def _offer(self, tool: dict[str, Any], param: str, namespace: str = "") -> dict[str, Any]:
        """Take a function or custom tool in; what the response shows of it."""
        name = _name(tool.get("name"), f"{param}.name")
        known_as = offered_name(name, namespace)
        if known_as in self.offers:
            invalid(f"{param}.name", f"is there twice: {known_as!r}")
        described = tool.get("description")
        description = None if described is None else _description(described, f"{param}.description")
        self.offers[known_as] = Offer(tool["type"], name, namespace)
        self.paths.append(param)
        function: dict[str, Any] = {"name": known_as, "description": description or ""}
        if tool["type"] == "custom":
            shown = {"type": "custom", "name": name, "description": description}
            if (form := tool.get("format")) is not None:
                shown["format"] = form
                function["description"] = _with_grammar(description or "", form, f"{param}.format")
            self.tools.append({"type": "function", "function": {**function, "parameters": _INPUT}})
            return shown
        parameters = tool.get("parameters")
        if parameters is not None:
            _object(parameters, f"{param}.parameters")
        strict = bool(tool.get("strict"))
        if strict:
            function["strict"] = True
        self.tools.append({"type": "function", "function": {**function, "parameters": parameters or {}}})
        shown = {"type": "function", "name": name, "description": description}
        return {**shown, "parameters": parameters, "strict": strict}

    def choose(self, choice: Any) -> Any:
        """A request's tool_choice in chat's shape. Raises TokenyardError for a tool that is not offered."""
        if choice is None or choice in ("auto", "none"):
            return choice
        if choice == "required":
            return self._required()
        kind = choice.get("type") if type(choice) is dict else None
        if kind == "mcp":
            return choice  # which tools that is, is known once the servers were asked
        if kind == "allowed_tools":
            return self._allowed(choice)
        if not isinstance(kind, str):
            invalid("tool_choice", "must be 'auto', 'none', 'required', or an object with a type")
        if kind not in ("function", "custom"):
            words = f"must be function, custom or allowed_tools: there is no {kind[:40]!r} tool here"
            invalid("tool_choice.type", words)
        return self._find(choice, "tool_choice")

    def _required(self) -> str:
        if not self.offers and not self.has_servers:
            invalid("tool_choice", "is 'required', but tools has none that can be called here")
        return "required"

    def _allowed(self, choice: dict[str, Any]) -> dict[str, Any]:
        mode, allowed = choice.get("mode", "auto"), choice.get("tools")
        if mode not in ("auto", "required"):
            invalid("tool_choice.mode", "must be 'auto' or 'required'")
        if type(allowed) is not list or not allowed:
            invalid("tool_choice.tools", "must be a list of at least one tool")
        tools = [self._find(tool, f"tool_choice.tools.{index}") for index, tool in enumerate(allowed)]
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}

    def _find(self, named: Any, param: str) -> dict[str, Any]:
        """The tool that is meant, under the name by which the model knows it."""
        if type(named) is not dict:
            invalid(param, "must be an object")
        name = offered_name(_name(named.get("name"), f"{param}.name"), named.get("namespace") or "")
        if name not in self.offers:
            invalid(f"{param}.name", f"names {name!r}, which is not among the tools that can be called here")
        return {"type": "function", "function": {"name": name}}


def _with_grammar(description: str, form: Any, param: str) -> str:
    """A custom tool's grammar, told to the model in words: it is not enforced."""
    if type(form) is not dict or form.get("type") not in ("text", "grammar"):
        invalid(param, "must be an object whose type is 'text' or 'grammar'")
    if form["type"] == "text":
        return description
    definition = _description(form.get("definition"), f"{param}.definition")
    return f"{description}\n\nThe input must match this {form.get('syntax', '')} grammar:\n{definition}"
