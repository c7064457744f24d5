"""Resources of MCP servers, attached to a message by their URI: read here, and put into the conversation as text.

A part of a chat message's content: `{"type": "resource", "server_label": "fs", "uri": "file:///notes.txt"}`. Like a
tool's result, such a text is not trusted: it is disarmed, and cut as the server's config says.
"""

import asyncio
from collections.abc import Collection
from typing import Any

from tokenyard.http.errors import invalid
from tokenyard.http.mcp.config import ServerConfig
from tokenyard.http.mcp.hub import Hub
from tokenyard.http.mcp.results import cut, disarm
from tokenyard.http.mcp.sdk import McpFailure
from tokenyard.http.mcp.selection import find_server

RESOURCE = "resource"
MAX_ATTACHED = 32
"""Of one request: as many as it may make calls."""


async def attach(hub: Hub, messages: list[Any], marks: Collection[str]) -> list[Any]:
    """The messages with the text of each resource in its place. Raises TokenyardError naming the part."""
    places = [
        (number, index, part)
        for number, message in enumerate(messages)
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        for index, part in enumerate(message["content"])
        if isinstance(part, dict) and part.get("type") == RESOURCE
    ]
    if not places:
        return messages
    if len(places) > MAX_ATTACHED:
        invalid("messages", f"attach {len(places)} resources; one request may attach {MAX_ATTACHED}")
    texts = await asyncio.gather(
        *(_read(hub, part, f"messages.{number}.content.{index}", marks) for number, index, part in places)
    )
    attached = list(messages)
    for (number, index, _), text in zip(places, texts, strict=True):
        content = list(attached[number]["content"])
        content[index] = {"type": "text", "text": text}
        attached[number] = {**attached[number], "content": content}
    return attached


async def _read(hub: Hub, part: dict[str, Any], param: str, marks: Collection[str]) -> str:
    configs = hub.configs()
    label = find_server(part.get("server_label"), f"{param}.server_label", configs)
    uri = part.get("uri")
    if not isinstance(uri, str) or not uri:
        invalid(f"{param}.uri", "must be a string")
    config: ServerConfig = next(one for one in configs if one.label == label)
    try:
        contents = await hub.read_resource(label, uri)
    except McpFailure as failure:
        invalid(f"{param}.uri", f"cannot be read: {failure.words}")
    text = "\n".join(
        str(one["text"]) if "text" in one else f"[{one.get('mimeType', 'data')}: this model reads text]"
        for one in contents
    )
    return f"\n[{disarm(uri, marks)}]\n{disarm(cut(text, config.max_result_chars), marks)}\n"
