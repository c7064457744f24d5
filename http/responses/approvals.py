"""What a person has decided about calls of servers' tools, found in a conversation's items."""

from dataclasses import dataclass, field

from tokenyard.http.errors import invalid
from tokenyard.http.mcp.names import tool_name
from tokenyard.http.responses.items import Item
from tokenyard.http.turns import Call


@dataclass
class Decisions:
    """Calls that were waiting; each bears the id of its approval request."""

    approved: list[Call] = field(default_factory=list)
    denied: list[Call] = field(default_factory=list)

    @property
    def any(self) -> bool:
        return bool(self.approved or self.denied)


def read_decisions(history: list[Item], items: list[Item]) -> Decisions:
    """The approval responses among a request's own items, whose calls have not been made since.

    Raises TokenyardError naming the response whose request is nowhere in the conversation.
    """
    whole = [*history, *items]
    requests = {item["id"]: item for item in whole if item["type"] == "mcp_approval_request"}
    made = {item["approval_request_id"] for item in whole if item["type"] == "mcp_call"}
    decisions = Decisions()
    for index, item in enumerate(items):
        if item["type"] != "mcp_approval_response" or item["approval_request_id"] in made:
            continue
        request = requests.get(item["approval_request_id"])
        if request is None:
            invalid(f"input.{index}.approval_request_id", "names no approval request of this conversation")
        name = tool_name(request["server_label"], request["name"])
        call = Call(name, request["arguments"], id=request["id"])
        (decisions.approved if item["approve"] else decisions.denied).append(call)
    return decisions
