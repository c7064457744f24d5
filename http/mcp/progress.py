"""Calls that ran in the server, as chat completions show them: under the key `mcp` of chunks and bodies.

A chunk in mid-stream tells one event: `{"event": "tools_listed" | "call_started" | "call_finished", ...}`, if the
request asked for it. The finish chunk, and a body, hold all calls: `{"calls": [{id, server, tool, arguments, output,
is_error}]}`.
"""

from typing import Any

from tokenyard.http.turns import ApprovalAsked, ServerCallBegun, ServerCallEnded, ServerPart, ToolsListed


class ServerCalls:
    """The calls of one answer so far."""

    def __init__(self) -> None:
        self._calls: dict[str, dict[str, Any]] = {}

    def take(self, part: ServerPart) -> dict[str, Any]:
        """Remember a part; return the event that tells it."""
        match part:
            case ToolsListed(server, tools, error):
                told = {"event": "tools_listed", "server": server, "tools": [tool["name"] for tool in tools]}
                return {**told, "error": error} if error else told
            case ServerCallBegun(call_id, server, tool, arguments):
                call = {"id": call_id, "server": server, "tool": tool, "arguments": arguments}
                self._calls[call_id] = dict(call)
                return {"event": "call_started", **call}
            case ServerCallEnded(call_id, output, is_error):
                self._calls[call_id] |= {"output": output, "is_error": is_error}
                return {"event": "call_finished", **self._calls[call_id]}
            case ApprovalAsked():
                raise AssertionError("chat completions offer no tool that must be approved")

    @property
    def summary(self) -> dict[str, Any]:
        """For a finish chunk or a body; empty where nothing ran."""
        return {"mcp": {"calls": list(self._calls.values())}} if self._calls else {}
