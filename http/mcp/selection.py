"""Which servers' tools a request gets, and under which names the model sees them.

A request chooses by tools of type `mcp`, or by a header; one that chooses nothing gets the servers marked `default`,
unless it brings function tools of its own: such a client runs its tools itself. Commands and URLs never come from a
request.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from tokenyard.broker.errors import SetupError
from tokenyard.http.errors import invalid
from tokenyard.http.mcp.config import ServerConfig, read_approval
from tokenyard.http.mcp.hub import Hub, OwnedTool
from tokenyard.http.mcp.names import tool_name
from tokenyard.http.mcp.sdk import Tool
from tokenyard.http.turns import ToolsListed

HEADER = "x-mcp-servers"
"""Labels with commas between; `none` for no server."""
REFUSED = {
    "server_url": "servers are named in this server's own file, never by a request",
    "connector_id": "there are no connectors here",
    "authorization": "servers' credentials are in this server's own file",
    "headers": "servers' headers are in this server's own file",
}


class Wish(NamedTuple):
    """What a request wants of one server."""

    label: str
    param: str
    """The field that named it."""
    allowed_tools: frozenset[str] | None
    require_approval: frozenset[str] | bool | None
    """None: as the file has it. A request can only be stricter than the file."""

    def allows(self, tool: str) -> bool:
        return self.allowed_tools is None or tool in self.allowed_tools

    def must_ask(self, config: ServerConfig, tool: str) -> bool:
        mine = self.require_approval
        return config.must_ask(tool) or (mine if isinstance(mine, bool) else mine is not None and tool in mine)


class Selected(NamedTuple):
    """The tools of servers that one request offers to its model."""

    tools: dict[str, OwnedTool]
    """By the name that the model sees."""
    to_approve: frozenset[str]
    """Those of them whose calls a person must allow."""
    listed: list[ToolsListed]
    """By server, for those who show it."""

    def full_name(self, name: str) -> str:
        """The tool that a model meant: small ones leave the server's name away, where no other tool is called so."""
        meant = [full for full, owned in self.tools.items() if owned.tool.name == name]
        return meant[0] if name not in self.tools and len(meant) == 1 else name

    def function_tools(self) -> list[dict[str, Any]]:
        """As chat templates take them."""
        return [
            {
                "type": "function",
                "function": {
                    "name": name,
                    "description": owned.tool.description,
                    "parameters": owned.tool.parameters,
                },
            }
            for name, owned in self.tools.items()
        ]


def is_mcp(tool: Any) -> bool:
    """Whether a request's tool names a server."""
    return isinstance(tool, dict) and tool.get("type") == "mcp"


def read_wishes(tools: Sequence[Any], header: str | None, configs: Sequence[ServerConfig]) -> list[Wish]:
    """What a request wants. Raises TokenyardError naming the field."""
    wishes = [_wish(tool, f"tools.{index}", configs) for index, tool in enumerate(tools) if is_mcp(tool)]
    seen: set[str] = set()
    for wish in wishes:
        if wish.label in seen:
            invalid(wish.param, f"names {wish.label!r} a second time")
        seen.add(wish.label)
    return wishes or unasked(bool(tools), header, configs)


def unasked(has_tools: bool, header: str | None, configs: Sequence[ServerConfig]) -> list[Wish]:
    """What a request gets whose body names no server. Raises TokenyardError naming the header."""
    if header is not None:
        labels = [label.strip() for label in header.split(",") if label.strip()]
        labels = [] if labels == ["none"] else labels
        return [Wish(find_server(label, HEADER, configs), HEADER, None, None) for label in labels]
    if has_tools:
        return []
    return [Wish(config.label, "tools", None, None) for config in configs if config.default]


def _wish(tool: dict[str, Any], param: str, configs: Sequence[ServerConfig]) -> Wish:
    for name, why in REFUSED.items():
        if tool.get(name):
            invalid(f"{param}.{name}", f"is not taken: {why}")
    return Wish(
        find_server(tool.get("server_label"), f"{param}.server_label", configs),
        f"{param}.server_label",
        read_allowed(tool.get("allowed_tools"), f"{param}.allowed_tools"),
        _approval(tool.get("require_approval"), f"{param}.require_approval"),
    )


def find_server(label: Any, param: str, configs: Sequence[ServerConfig]) -> str:
    """The label of a server that there is. Raises TokenyardError naming the field."""
    if not isinstance(label, str):
        invalid(param, "must be a string")
    labels = [config.label for config in configs]
    if label not in labels:
        there = ", ".join(labels) or "none"
        invalid(param, f"names {label[:40]!r}, which is no server here; there are: {there}")
    return label


def read_allowed(value: Any, param: str) -> frozenset[str] | None:
    """A list of tools, or OpenAI's filter object with `tool_names`."""
    if value is None:
        return None
    if isinstance(value, dict):
        if value.get("read_only") is not None:
            invalid(f"{param}.read_only", "is not supported: name the tools")
        value = value.get("tool_names")
        param = f"{param}.tool_names"
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        invalid(param, "must be a list of tools' names")
    return frozenset(value)


def _approval(value: Any, param: str) -> frozenset[str] | bool | None:
    """`always`, `never`, or OpenAI's object from those two to filters."""
    if value is None:
        return None
    if isinstance(value, dict):
        always = read_allowed(value.get("always"), f"{param}.always")
        never = read_allowed(value.get("never"), f"{param}.never")
        if always is None and never is not None:
            invalid(param, "must name the tools that always ask; all others never do")
        return always
    try:
        return read_approval(param, value)
    except SetupError:
        invalid(param, "must be 'always', 'never', or an object")


def chooser(choice: Any) -> "Callable[[Selected], Any] | None":
    """For a tool_choice of type mcp: names the tools that are meant, once they are known; None for any other."""
    if not is_mcp(choice):
        return None

    def choose(selected: Selected) -> Any:
        label, name = choice.get("server_label"), choice.get("name")
        meant = [
            full
            for full, owned in selected.tools.items()
            if owned.server.label == label and name in (None, owned.tool.name)
        ]
        if not meant:
            invalid("tool_choice", f"names no tool of {str(label)[:40]!r} that is offered")
        functions = [{"type": "function", "function": {"name": one}} for one in meant]
        if len(functions) == 1:
            return functions[0]
        return {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": functions}}

    return choose


async def select(hub: Hub, wishes: Sequence[Wish], taken: Collection[str], *, can_ask: bool) -> Selected:
    """The tools that there are now of what a request wants. `taken`: names of the client's own tools.

    Where nobody can be asked (`can_ask` false), tools that need approval are not offered. Servers that cannot be
    reached cost their own tools only. Raises TokenyardError where a wish names a tool that its server lacks.
    """
    owned = await hub.tools([wish.label for wish in wishes])
    tools: dict[str, OwnedTool] = {}
    to_approve: set[str] = set()
    listed: list[ToolsListed] = []
    for wish in wishes:
        own = [one for one in owned if one.server.label == wish.label]
        _refuse_missing(wish, {one.tool.name for one in own})
        shown: list[Tool] = []
        for one in own:
            asks = wish.must_ask(one.server, one.tool.name)
            if not wish.allows(one.tool.name) or (asks and not can_ask):
                continue
            name = tool_name(wish.label, one.tool.name, {*tools, *taken})
            tools[name] = one
            shown.append(one.tool)
            if asks:
                to_approve.add(name)
        listed.append(
            ToolsListed(wish.label, [_described(tool) for tool in shown], "" if own else hub.words(wish.label))
        )
    return Selected(tools, frozenset(to_approve), listed)


def _refuse_missing(wish: Wish, there: set[str]) -> None:
    """A name that the server does not know is a mistake, unless the server is away and nobody can tell."""
    missing = (wish.allowed_tools or frozenset()) - there
    if missing and there:
        param = wish.param.removesuffix("server_label") + "allowed_tools"
        invalid(param, f"names {min(missing)!r}, which {wish.label} does not have; it has {', '.join(sorted(there))}")


def _described(tool: Tool) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "input_schema": tool.parameters,
        "annotations": tool.annotations or None,
    }
