"""The two request bodies, typed; each field is checked by the tables of fields.py first.

Knows no model: what depends on one (vocabulary, context length, template) is checked where the model is known.
"""

import gc
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

import orjson

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import Grammar
from tokenyard.http.checks import MAX_CHOICES
from tokenyard.http.errors import invalid
from tokenyard.http.fields import CHAT, COMPLETIONS, GRAMMARS, SAMPLING, read
from tokenyard.http.grammars import only_one
from tokenyard.http.reasoning import merge_wishes

MAX_DEPTH = 200
"""Of lists and objects in one another. What is read is told again, within others: that must be possible."""
_MAX_WRITTEN_DEPTH = 254
"""orjson's own limit, which a test looks at."""
MAX_NAMED_BYTES = 1 << 18
"""In longer bodies that are no JSON the culprit is not looked for: this is 20 ms of work."""


@dataclass(slots=True)
class StreamOptions:
    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_mcp: bool = False
    """Tell of calls of MCP servers as they are made."""


@dataclass(slots=True, kw_only=True)
class Request:
    """What chat and completions share."""

    CONTENT: ClassVar[str]
    """The field that holds the prompt."""
    SILENT_MAX_TOKENS: ClassVar[int | None]
    """The limit of an answer where nobody names one, as OpenAI documents it; None: the context's end."""
    CLIPS_MAX_TOKENS: ClassVar[bool] = False
    """Whether a limit beyond the context's end means that end, rather than an error."""

    model: str
    max_tokens: int | None = None
    max_tokens_param: str = "max_tokens"
    """Which field named the limit, for the words of an error."""
    n: int = 1
    sampling: dict[str, Any] = field(default_factory=dict)
    """The fields of fields.SAMPLING that the request names."""
    grammar: Grammar | None = None
    """What the whole answer must match."""
    stop: list[str] = field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions = field(default_factory=StreamOptions)
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    return_token_ids: bool = False
    cache_salt: str = ""
    priority: int = 0
    num_logprobs: int = -1
    """As Params.logprobs: -1 for none, 0 for the chosen token's only."""
    prompt_logprobs: int = -1
    """As Params.prompt_logprobs."""
    truncate_prompt_tokens: int = 0
    """Only so many of the prompt's last tokens count; 0: all, -1: as many as fit."""
    return_tokens_as_token_ids: bool = False

    @property
    def num_candidates(self) -> int:
        """Answers to make for each prompt."""
        return self.n

    @property
    def num_prompt_logprobs(self) -> int:
        """As Params.prompt_logprobs, whichever field asks for it."""
        return self.prompt_logprobs


@dataclass(slots=True, kw_only=True)
class ChatRequest(Request):
    CONTENT: ClassVar[str] = "messages"
    SILENT_MAX_TOKENS: ClassVar[int | None] = None

    messages: list[Any]
    tools: list[Any] = field(default_factory=list)
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    reasoning_effort: str | None = None
    think: bool | None = None
    """Whether the model is to think; None leaves it to its template."""
    think_param: str = "enable_thinking"
    """Which field said so, for the words of an error."""
    include_reasoning: bool = True
    """Whether thoughts are shown."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


@dataclass(slots=True, kw_only=True)
class CompletionRequest(Request):
    CONTENT: ClassVar[str] = "prompt"
    SILENT_MAX_TOKENS: ClassVar[int | None] = 16

    prompt: Any
    add_special_tokens: bool = True
    echo: bool = False
    suffix: str = ""
    best_of: int | None = None

    @property
    def num_candidates(self) -> int:
        return self.best_of or self.n

    @property
    def num_prompt_logprobs(self) -> int:
        return max(self.prompt_logprobs, self.num_logprobs if self.echo else -1)

    @property
    def num_prompts(self) -> int:
        """One, but for lists of texts or of lists."""
        many = type(self.prompt) is list and self.prompt and type(self.prompt[0]) is not int
        return len(self.prompt) if many else 1


def parse_json(body: bytes) -> dict[str, Any]:
    """A request's body as an object. Raises TokenyardError for anything else: NaN, say, or what is nested too deep."""
    gc.disable()  # it would look in vain, again and again: a million small lists took 1.4 s instead of 0.1 (measured)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        param = _find_constant(body)
        where = f" at {param}" if param else ""
        raise TokenyardError("invalid_value", f"the body is not valid JSON{where}: {error}", param) from error
    finally:
        gc.enable()
    if type(value) is not dict:
        raise TokenyardError("invalid_value", f"the body must be a JSON object, not {type(value).__name__}")
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_deep(value):
        raise TokenyardError("invalid_value", f"the body has more than {MAX_DEPTH} levels of lists and objects")
    return value


def _is_deep(value: Any) -> bool:
    """Whether there are more levels than MAX_DEPTH, found by orjson: to walk through a million lists takes seconds."""
    for _ in range(_MAX_WRITTEN_DEPTH - MAX_DEPTH):
        value = [value]
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return True
    return False


class _Constant:
    """In place of NaN and the infinities, which Python's clients write and JSON does not have."""


def _find_constant(body: bytes) -> str | None:
    """The path of the first NaN or Infinity in what would be JSON but for them."""
    if len(body) > MAX_NAMED_BYTES:
        return None
    try:
        left: list[tuple[str, Any]] = [("", json.loads(body, parse_constant=lambda name: _Constant()))]
    except (ValueError, RecursionError):
        return None
    while left:
        path, value = left.pop()
        if type(value) is _Constant:
            return path[1:] or None
        if type(value) in (dict, list):
            items = value.items() if type(value) is dict else enumerate(value)
            left += [(f"{path}.{key}", one) for key, one in items]
    return None


def parse_chat(body: dict[str, Any]) -> ChatRequest:
    """Raises TokenyardError naming the first field at fault."""
    values = read(body, CHAT, "model", ChatRequest.CONTENT)
    if "max_completion_tokens" in values:
        values["max_tokens"] = values.pop("max_completion_tokens")
        values["max_tokens_param"] = "max_completion_tokens"
    wanted = values.pop("logprobs", False)
    top = values.pop("top_logprobs", None)
    if top is not None and not wanted:
        invalid("top_logprobs", "needs logprobs to be true")
    values["num_logprobs"] = (top or 0) if wanted else -1
    merge_wishes(values)
    return ChatRequest(**_common(values))


def parse_completion(body: dict[str, Any]) -> CompletionRequest:
    """Raises TokenyardError naming the first field at fault."""
    values = read(body, COMPLETIONS, "model", CompletionRequest.CONTENT)
    values["num_logprobs"] = values.pop("logprobs", -1)
    request = CompletionRequest(**_common(values))
    if request.num_candidates < request.n:
        invalid("best_of", f"must be at least n, which is {request.n}")
    if request.num_candidates > request.n and request.stream:
        invalid("best_of", "above n is not possible with stream: the best is known at the end")
    if request.num_prompts * request.num_candidates > MAX_CHOICES:
        invalid("prompt", f"and n or best_of together ask for more than {MAX_CHOICES} choices")
    for name in ("echo", "truncate_prompt_tokens"):
        if request.suffix and getattr(request, name):
            invalid(name, "is not possible with suffix")
    return request


def _common(values: dict[str, Any]) -> dict[str, Any]:
    """Check the rules between fields, and gather the sampler's."""
    if "stream_options" in values:
        if not values.get("stream"):
            invalid("stream_options", "is allowed only with stream true")
        values["stream_options"] = StreamOptions(**values["stream_options"])
    if "prompt_logprobs" in values and values.get("stream"):
        invalid("prompt_logprobs", "is not possible with stream")
    values["grammar"] = only_one({name: values.pop(name) for name in GRAMMARS if name in values})
    num_choices = values.get("generation_config", {}).get("num_return_sequences")
    if num_choices is not None:
        values.setdefault("n", num_choices)
    values["sampling"] = {name: values.pop(name) for name in SAMPLING if name in values}
    return values
