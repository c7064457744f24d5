"""The body of a request to /v1/messages, checked and brought to a ChatRequest.

Knows no model, except in `set_reasoning`, which a request meets once its model is known.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from tokenyard.http.anthropic.conversation import read_conversation
from tokenyard.http.anthropic.fields import COUNTED, MESSAGES, Thinking
from tokenyard.http.anthropic.tools import read_tool_choice, read_tools
from tokenyard.http.errors import invalid
from tokenyard.http.fields import SAMPLING, read
from tokenyard.http.schemas import ChatRequest


@dataclass(slots=True, kw_only=True)
class MessagesRequest(ChatRequest):
    CLIPS_MAX_TOKENS: ClassVar[bool] = True

    thinking: Thinking | None = None
    effort: str | None = None
    mcp_servers: list[Any] = field(default_factory=list)
    all_tools: list[Any] = field(default_factory=list)
    """As they came, toolsets of MCP servers included; `tools` has functions only."""


def parse_messages(body: dict[str, Any]) -> MessagesRequest:
    """Raises TokenyardError naming the first field at fault."""
    return _request(read(body, MESSAGES, "max_tokens", "model", "messages"))


def parse_count(body: dict[str, Any]) -> MessagesRequest:
    """The same for a request that only counts its tokens."""
    return _request(read(body, COUNTED, "model", "messages"))


def _request(values: dict[str, Any]) -> MessagesRequest:
    output = values.pop("output_config", {})
    grammars = [values.pop("output_format", None), output.get("format")]
    if None not in grammars:
        invalid("output_format", "cannot be combined with output_config.format")
    all_tools = values.pop("tools", [])
    tools = read_tools(all_tools)
    has_servers = len(all_tools) > len(tools) or bool(values.get("mcp_servers"))
    choice = read_tool_choice(values.pop("tool_choice", None), tools, has_servers)
    grammar = next((grammar for grammar in grammars if grammar is not None), None)
    messages = read_conversation(
        values.pop("messages"), values.pop("system", None), values.pop("context_management", None)
    )
    return MessagesRequest(
        messages=messages,
        tools=tools,
        all_tools=all_tools,
        tool_choice=choice.choice,
        parallel_tool_calls=choice.parallel,
        grammar=grammar,
        effort=output.get("effort"),
        stop=values.pop("stop_sequences", []),
        sampling={name: values.pop(name) for name in SAMPLING if name in values},
        **values,
    )


def set_reasoning(request: MessagesRequest, template: str) -> None:
    """Say `thinking` and `effort` in the words of this model's chat template.

    `adaptive` and `effort` leave it to the model how much it thinks, so a model that never does may be asked as well;
    `enabled` is refused there.
    """
    thinking = None if request.thinking is None else request.thinking.type
    if thinking == "disabled":
        request.reasoning_effort = "none"
    elif "reasoning_effort" in template:
        # Templates know no efforts above high.
        request.reasoning_effort = "high" if request.effort in ("xhigh", "max") else request.effort
    elif thinking is not None and "enable_thinking" in template:
        request.reasoning_effort = "high"
    elif thinking == "enabled":
        invalid("thinking.type", f"cannot be 'enabled' with {request.model}: its chat template knows no thinking")
