"""A Responses request, typed: read from its body, laid over the conversation that it goes on with, planned as a chat.

Knows no sockets and no store: what came before is given.
"""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.chat import ChatPlan, plan_chat
from tokenyard.http.errors import invalid
from tokenyard.http.fields import GRAMMARS, SAMPLING
from tokenyard.http.fields import read as read_fields
from tokenyard.http.grammars import only_one
from tokenyard.http.prompt import Prompter
from tokenyard.http.responses.approvals import Decisions, read_decisions
from tokenyard.http.responses.fields import ENCRYPTED, LOGPROBS, RESPONSES
from tokenyard.http.responses.items import Item, read_input
from tokenyard.http.responses.messages import to_messages
from tokenyard.http.responses.toolbox import Toolbox
from tokenyard.http.schemas import ChatRequest

ECHOED = ("metadata", "user", "safety_identifier", "prompt_cache_key", "top_logprobs")
"""Fields that come back with the response as they were sent."""


@dataclass(slots=True, kw_only=True)
class ResponsesRequest(ChatRequest):
    """A chat request whose conversation is input items. `messages` and `tools` are filled in by `lay`."""

    CONTENT: ClassVar[str] = "input"

    items: list[Item]
    """Of the input, in the shape in which they are kept."""
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | None = None
    store: bool | None = None
    """None: the client left it to us."""
    background: bool = False
    max_tool_calls: int | None = None
    """Of tools that the server runs."""
    truncate: bool = False
    """Whether the oldest messages may be dropped where all do not fit."""
    sealed: bool = False
    """Whether reasoning comes with `encrypted_content`."""
    obfuscate: bool = False
    raw_tools: list[Any] = field(default_factory=list)
    toolbox: Toolbox = field(default_factory=Toolbox)
    listed: set[str] = field(default_factory=set)
    """Servers whose tools the conversation has told."""
    decisions: Decisions = field(default_factory=Decisions)
    """What a person has said about calls that waited for it."""
    text_format: dict[str, Any] = field(default_factory=lambda: {"type": "text"})
    shown: dict[str, Any] = field(default_factory=dict)
    """What the response object says of the request."""

    def lay(self, history: list[Item], items: list[Item]) -> None:
        """Complete the request: `history` is the conversation so far, `items` its input without references.

        Raises TokenyardError naming the tool or the choice that does not fit.
        """
        self.items = items
        asked_choice = self.tool_choice
        self.toolbox.add(self.raw_tools, "tools")
        for index, item in enumerate([*history, *items]):
            if item["type"] == "additional_tools":
                self.toolbox.add(item["tools"], f"input.{max(0, index - len(history))}.tools")
        self.listed = {item["server_label"] for item in [*history, *items] if item["type"] == "mcp_list_tools"}
        self.decisions = read_decisions(history, items)
        self.tool_choice = self.toolbox.choose(asked_choice)
        self.tools = self.toolbox.tools
        self.messages = to_messages(self.instructions, [*history, *items])
        if not self.messages and not self.decisions.any:
            invalid("input", "must not be empty")
        self.shown |= {"tools": self.toolbox.shown, "tool_choice": asked_choice or "auto"}


def parse_response(body: dict[str, Any]) -> ResponsesRequest:
    """Raises TokenyardError naming the first field at fault."""
    goes_on = not body.keys().isdisjoint({"previous_response_id", "conversation"})
    values = read_fields(body, RESPONSES, "model", *(() if goes_on else ("input",)))
    if "previous_response_id" in values and "conversation" in values:
        invalid("conversation", "cannot be combined with previous_response_id")
    if "stream_options" in values and not values.get("stream"):
        invalid("stream_options", "is allowed only with stream true")
    include = values.pop("include", set())
    top = values.get("top_logprobs")
    if top and LOGPROBS not in include:
        invalid("top_logprobs", f"needs include to have {LOGPROBS!r}")
    text = values.pop("text", {})
    grammars = {name: values.pop(name) for name in GRAMMARS if name in values}
    reasoning = values.pop("reasoning", {})
    shown = {name: values[name] for name in ECHOED if name in values}
    for name in ECHOED:
        values.pop(name, None)
    request = ResponsesRequest(
        items=read_input(values.pop("input", [])),
        messages=[],
        grammar=only_one({"text.format": text.get("grammar"), **grammars}),
        text_format=text.get("format", {"type": "text"}),
        reasoning_effort=reasoning.get("effort"),
        num_logprobs=(top or 0) if LOGPROBS in include else -1,
        sealed=ENCRYPTED in include,
        obfuscate=values.pop("stream_options", {}).get("include_obfuscation", False),
        truncate=values.pop("truncation", "disabled") == "auto",
        raw_tools=values.pop("tools", []),
        max_tokens=values.pop("max_output_tokens", None),
        max_tokens_param="max_output_tokens",
        sampling={name: values.pop(name) for name in SAMPLING if name in values},
        shown=shown,
        **values,
    )
    # A last message of the assistant is history here, not the beginning of the answer, unless the client says so.
    if not request.continue_final_message:
        request.add_generation_prompt = True
    return request


async def plan_response(request: ResponsesRequest, prompter: Prompter) -> ChatPlan:
    """Render and tokenize, without the oldest messages where they do not fit and may go.

    Raises TokenyardError naming the field that does not fit.
    """
    try:
        return await _plan(request, prompter)
    except TokenyardError as error:
        if error.code != "context_length_exceeded" or not request.truncate:
            raise
        return await _plan_shortened(request, prompter, error)


async def _plan(request: ResponsesRequest, prompter: Prompter) -> ChatPlan:
    try:
        return await plan_chat(request, prompter)
    except TokenyardError as error:
        raise in_our_words(error, request.toolbox.paths) from error


async def _plan_shortened(request: ResponsesRequest, prompter: Prompter, error: TokenyardError) -> ChatPlan:
    """Drop as few of the oldest messages as will do, found by bisection; instructions and the last message stay."""
    messages = request.messages
    plan: ChatPlan | None = None
    low, high = 0, len(messages)
    while high - low > 1:
        middle = (low + high) // 2
        request.messages = _without_oldest(messages, middle)
        try:
            plan, high = await _plan(request, prompter), middle
        except TokenyardError as failure:
            if failure.code != "context_length_exceeded":
                raise
            low = middle
    if plan is None:
        raise error
    return plan


def _without_oldest(messages: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """All but the first `count`; a tool's output goes with its call. System messages and the last message stay."""
    kept = [message for message in messages[:count] if message["role"] == "system"]
    rest = messages[count:] or messages[-1:]
    while len(rest) > 1 and rest[0]["role"] == "tool":
        rest = rest[1:]
    return [*kept, *rest]


_CHAT_TOOL = re.compile(r"^tools\.(\d+)(\.function)?")


def in_our_words(error: TokenyardError, tool_paths: list[str]) -> TokenyardError:
    """A failure of a chat request, naming the fields of the Responses request that it was made from."""
    param = error.param
    if param is None:
        return error
    if param.split(".")[0] == "messages":
        ours = "input"
    elif param == "reasoning_effort":
        ours = "reasoning.effort"
    elif (match := _CHAT_TOOL.match(param)) and int(match[1]) < len(tool_paths):
        ours = tool_paths[int(match[1])] + param[match.end() :]
    else:
        return error
    words = ours + error.words.removeprefix(param) if error.words.startswith(param) else error.words
    return TokenyardError(error.code, words, ours, error.retry_ms)
