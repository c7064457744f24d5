"""MCP servers in Anthropic's terms: `mcp_servers`, tools of type `mcp_toolset`, and the blocks of their calls."""

from collections.abc import Sequence
from typing import Any

from tokenyard.http.checks import boolean, string
from tokenyard.http.errors import invalid
from tokenyard.http.mcp.config import ServerConfig
from tokenyard.http.mcp.names import tool_name
from tokenyard.http.mcp.selection import REFUSED, Wish, find_server, read_allowed

TOOLSET = "mcp_toolset"


def is_toolset(tool: Any) -> bool:
    return isinstance(tool, dict) and tool.get("type") == TOOLSET


def read_wishes(servers: Sequence[Any], tools: Sequence[Any], configs: Sequence[ServerConfig]) -> list[Wish]:
    """What a request wants of servers; `tools` are all of its tools. Raises TokenyardError naming the field.

    A server is chosen by a toolset, or, as in Anthropic's first beta, by standing in `mcp_servers` alone.
    """
    wishes: dict[str, Wish] = {}
    for index, tool in enumerate(tools):
        if is_toolset(tool):
            param = f"tools.{index}.mcp_server_name"
            label = find_server(tool.get("mcp_server_name"), param, configs)
            if label in wishes:
                invalid(param, f"names {label!r} a second time")
            wishes[label] = Wish(label, param, _enabled(tool, f"tools.{index}"), None)
    for index, server in enumerate(servers):
        param = f"mcp_servers.{index}"
        if not isinstance(server, dict):
            invalid(param, "must be an object")
        label = find_server(server.get("name"), f"{param}.name", configs)
        _refuse_others(server, param, next(config for config in configs if config.label == label))
        rules = server.get("tool_configuration") or {}
        if not isinstance(rules, dict):
            invalid(f"{param}.tool_configuration", "must be an object")
        param = f"{param}.tool_configuration"
        allowed = read_allowed(rules.get("allowed_tools"), f"{param}.allowed_tools")
        if boolean(rules.get("enabled", True), f"{param}.enabled") and label not in wishes:
            wishes[label] = Wish(label, f"mcp_servers.{index}.name", allowed, None)
    return list(wishes.values())


def _refuse_others(server: dict[str, Any], param: str, config: ServerConfig) -> None:
    """A request names servers of ours; it brings no address and no credentials."""
    if server.get("url") not in (None, "", config.url, f"mcp://{config.label}"):
        invalid(f"{param}.url", f"must be left out, or 'mcp://{config.label}': {REFUSED['server_url']}")
    if server.get("authorization_token"):
        invalid(f"{param}.authorization_token", f"is not taken: {REFUSED['authorization']}")


def _enabled(toolset: dict[str, Any], param: str) -> frozenset[str] | None:
    """The tools that a toolset's configuration leaves; None for all."""
    if toolset.get("tools") is not None:
        invalid(f"{param}.tools", "is not supported: the server is asked for its tools")
    default, configs = toolset.get("default_config") or {}, toolset.get("configs") or {}
    for name, value in (("default_config", default), ("configs", configs)):
        if not isinstance(value, dict):
            invalid(f"{param}.{name}", "must be an object")
    by_default = boolean(default.get("enabled", True), f"{param}.default_config.enabled")
    named: dict[str, bool] = {}
    for name, rule in configs.items():
        if not isinstance(rule, dict):
            invalid(f"{param}.configs.{name}", "must be an object")
        named[name] = boolean(rule.get("enabled", by_default), f"{param}.configs.{name}.enabled")
    if by_default and not all(named.values()):
        off = min(name for name, enabled in named.items() if not enabled)
        invalid(f"{param}.configs.{off}.enabled", "can be false only where default_config.enabled is false")
    return None if by_default else frozenset(name for name, enabled in named.items() if enabled)


_name = string(1, 256)


def call_name(block: dict[str, Any], param: str) -> str:
    """The name under which the model knows the tool of an `mcp_tool_use` block that comes back."""
    return tool_name(*(_name(block.get(name), f"{param}.{name}") for name in ("server_name", "name")))
