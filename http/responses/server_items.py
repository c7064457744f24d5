"""Items of what ran in the server: lists of MCP servers' tools, calls of them, and requests for a person's approval."""

from typing import Any

from tokenyard.http.responses.ids import new_id
from tokenyard.http.turns import ApprovalAsked, ServerCallBegun, ServerCallEnded, ToolsListed

Item = dict[str, Any]


def tool_list(part: ToolsListed) -> Item:
    """What a server offers, or why it could not be asked."""
    item = {"type": "mcp_list_tools", "id": new_id("mcpl"), "server_label": part.server, "tools": part.tools}
    return {**item, "error": part.error or None}


def approval_request(part: ApprovalAsked) -> Item:
    """A call that waits for a person."""
    item = {"type": "mcp_approval_request", "id": part.id, "server_label": part.server}
    return {**item, "name": part.tool, "arguments": part.arguments}


class ServerCall:
    """One call's item as it grows."""

    def __init__(self, part: ServerCallBegun, index: int) -> None:
        self.index = index
        self.arguments = part.arguments
        self.id = new_id("mcp")
        self._item: Item = {
            "type": "mcp_call",
            "id": self.id,
            "server_label": part.server,
            "name": part.tool,
            "approval_request_id": part.approval_id or None,
        }

    def begun(self) -> Item:
        return {**self._item, "arguments": "", "status": "in_progress", "output": None, "error": None}

    def ended(self, part: ServerCallEnded) -> Item:
        """With its result; a tool's own failure is an error with what it said."""
        error = {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": part.output}]}
        return {
            **self._item,
            "arguments": self.arguments,
            "status": "failed" if part.is_error else "completed",
            "output": None if part.is_error else part.output,
            "error": error if part.is_error else None,
        }

    def cut(self) -> Item:
        """The response ended before the call did."""
        return {**self._item, "arguments": self.arguments, "status": "incomplete", "output": None, "error": None}
