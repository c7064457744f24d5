"""From a request to prompt token ids: chat templates, tokenizing, and the checks of ids that clients send.

Knows no sockets and no jobs.
"""

import asyncio
from typing import Any, NamedTuple

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import Card
from tokenyard.http.encode import count_in_slices, encode, end_of, is_surely_longer
from tokenyard.http.errors import invalid
from tokenyard.http.library import TEMPLATE_FAILURES, LoadedTokenizer
from tokenyard.http.messages import read_messages, with_written_arguments
from tokenyard.http.reasoning import template_kwargs
from tokenyard.http.sampling import too_long, usable_tokens
from tokenyard.http.schemas import ChatRequest, CompletionRequest, Request
from tokenyard.http.tools import read_tools

LONG_PROMPT_CHARS = 4_000
"""Texts above this go to a thread: at 1 to 2 µs a character (measured), it holds the loop for over 4 ms."""
MANY_ITEMS = 64
"""Conversations of more messages, parts or tools are read and rendered in a thread, at some 30 µs each (measured)."""


class Prompt(NamedTuple):
    ids: list[int]
    continued: bool
    """Whether the answer's text goes on in mid-text, so that, say, a first word keeps its leading space."""
    text: str = ""
    """What was tokenized, if it was text. A rendered conversation may have begun the answer, with a mark that opens a
    thought, say."""
    begun: str = ""
    """The last message's text, where the answer goes on with it."""
    end_ids: list[int] = []
    """Tokens that end this answer, beside those that end any."""


class Prompter:
    """Makes prompts for one model. Its methods raise TokenyardError naming the field that cannot be used."""

    def __init__(self, card: Card, loaded: LoadedTokenizer) -> None:
        self.card = card
        self.loaded = loaded

    async def of_chat(self, request: ChatRequest) -> Prompt:
        """A rendered conversation."""
        text, begun = await self._rendered(request)
        prompt = Prompt(await self._encode(text, "messages", False, self._most(request)), bool(begun), text, begun)
        return self._cut(prompt, request)._replace(text=text)

    async def text_of_chat(self, request: ChatRequest) -> str:
        """A rendered conversation, as it is before it becomes tokens."""
        text, _ = await self._rendered(request)
        return text

    async def count_chat(self, request: ChatRequest) -> int:
        """Tokens of a rendered conversation, be it longer than the context; then to within a handful."""
        text, _ = await self._rendered(request)
        backend, usable = self.loaded.backend, usable_tokens(self.card)
        if await asyncio.to_thread(is_surely_longer, backend, text, usable):
            return await asyncio.to_thread(count_in_slices, backend, text)
        return len(await self._encode(text, "messages", False))

    async def _rendered(self, request: ChatRequest) -> tuple[str, str]:
        if not self.loaded.template:
            words = f"{self.card.names[0]} is a base model without a chat template; use /v1/completions"
            raise TokenyardError("invalid_value", words, "messages")
        if _num_items(request) <= MANY_ITEMS:
            return self._conversation(request)
        return await asyncio.to_thread(self._conversation, request)

    def _conversation(self, request: ChatRequest) -> tuple[str, str]:
        """As text, and what it says already of the answer, which goes on with its last message."""
        messages = read_messages(request.messages)
        continued = _continues(request, messages)
        return self._render(request, messages, continued), messages[-1]["content"] if continued else ""

    async def of_completion(self, request: CompletionRequest) -> list[Prompt]:
        """Each prompt of a string, a list of strings, a list of ids, or a list of such lists."""
        prompt = request.prompt
        if isinstance(prompt, str) or (prompt and type(prompt[0]) is int):
            return [await self._of_one(request, prompt, "prompt")]
        if not prompt:
            invalid("prompt", "must not be empty")
        return [await self._of_one(request, one, f"prompt.{index}") for index, one in enumerate(prompt)]

    async def of_input(self, given: Any, param: str, add_special_tokens: bool) -> list[int]:
        """The ids of a text to embed, or the ids that were given."""
        if isinstance(given, list):
            return self._of_ids(given, param).ids
        if not isinstance(given, str):
            invalid(param, "must be a string or a list of token ids")
        if not given:
            invalid(param, "must not be empty")
        return await self._encode(given, param, add_special_tokens)

    async def _of_one(self, request: CompletionRequest, given: Any, param: str) -> Prompt:
        """A prompt as it was given, and what the request makes of it."""
        special = request.add_special_tokens and not request.suffix
        prompt = (
            self._of_ids(given, param)
            if isinstance(given, list)
            else await self._of_text(given, param, special, request)
        )
        if request.suffix:
            prompt = await self._filling(prompt, request)
        return self._cut(prompt, request)

    async def _filling(self, prefix: Prompt, request: CompletionRequest) -> Prompt:
        """The prompt whose answer goes between this one and the suffix."""
        infill = self.loaded.infill
        if infill is None:
            words = (
                f"is not supported with {self.card.names[0]}: its tokenizer has no tokens to fill in the middle with"
            )
            invalid("suffix", words)
        begin = encode(self.loaded.backend, "", request.add_special_tokens)
        suffix = await self._encode(request.suffix, "suffix", False)
        return Prompt([*begin, *infill.join(prefix.ids, suffix)], continued=True, end_ids=infill.end_ids)

    def _most(self, request: Request) -> int:
        """Tokens of a prompt's end that the request allows; 0: all."""
        if request.truncate_prompt_tokens >= 0:
            return request.truncate_prompt_tokens
        return max(1, usable_tokens(self.card) - (request.max_tokens or 1))

    def _cut(self, prompt: Prompt, request: Request) -> Prompt:
        """Only the prompt's end, where the request allows no more; what a tokenizer puts before any text stays."""
        most = self._most(request)
        if not 0 < most < len(prompt.ids):
            return prompt
        begin = encode(self.loaded.backend, "", True) if prompt.text else []
        if len(begin) >= most or prompt.ids[: len(begin)] != begin:
            begin = []
        return prompt._replace(ids=[*begin, *prompt.ids[len(begin) - most :]], text="")

    async def _of_text(self, text: Any, param: str, add_special_tokens: bool, request: Request) -> Prompt:
        if not isinstance(text, str):
            invalid(param, "must be a string or a list of token ids")
        ids = await self._encode(text, param, add_special_tokens, self._most(request))
        if not ids:
            invalid(param, "must not be empty")
        return Prompt(ids, continued=True, text=text)

    def _of_ids(self, ids: list[Any], param: str) -> Prompt:
        if not ids:
            invalid(param, "must not be empty")
        # Of a prompt that cannot fit anyway, its length is all that matters.
        for index, token_id in enumerate(ids[: self.card.context_length]):
            if type(token_id) is not int or not 0 <= token_id < self.card.vocab_size:
                invalid(f"{param}.{index}", f"must be a token id from 0 to {self.card.vocab_size - 1}")
        return Prompt(ids, continued=True)

    async def _encode(self, text: str, param: str, add_special_tokens: bool, most: int = 0) -> list[int]:
        """`most`: only so many tokens of the end are wanted, so that what comes long before may be left out."""
        backend = self.loaded.backend
        if len(text) <= LONG_PROMPT_CHARS:
            return encode(backend, text, add_special_tokens)
        usable = usable_tokens(self.card)
        if await asyncio.to_thread(is_surely_longer, backend, text, usable):
            if not 0 < most <= usable:
                raise too_long(self.card, f"more than {usable}", param)
            text = await asyncio.to_thread(end_of, backend, text, most)
        return await asyncio.to_thread(encode, backend, text, add_special_tokens)

    def _render(self, request: ChatRequest, messages: list[dict[str, Any]], continued: bool) -> str:
        tools = read_tools(request.tools) if request.tool_choice != "none" else []
        if tools and not self.loaded.speech.calls:
            invalid("tools", f"are not supported with {self.card.names[0]}: its template teaches no calls that we know")
        generation_prompt = not continued if request.add_generation_prompt is None else request.add_generation_prompt
        kwargs = self._template_kwargs(request)
        ways = [messages]
        if any("tool_calls" in message for message in messages):
            ways.append(with_written_arguments(messages))
        failures: list[Exception] = []
        for way in ways:
            try:
                text = self.loaded.chat.apply_chat_template(
                    way,
                    tools=list(tools) or None,
                    tokenize=False,
                    add_generation_prompt=generation_prompt,
                    continue_final_message=continued,
                    **kwargs,
                )
            except TEMPLATE_FAILURES as error:
                failures.append(error)
            else:
                assert isinstance(text, str)
                return text
        words = f"the model's chat template refuses these messages: {failures[0]}"
        raise TokenyardError("invalid_value", words, "messages") from failures[0]

    def _template_kwargs(self, request: ChatRequest) -> dict[str, Any]:
        kwargs = request.chat_template_kwargs
        for name in kwargs:
            if name in _NOT_THE_TEMPLATES:
                invalid(f"chat_template_kwargs.{name}", "is not the template's to take")
        wishes = template_kwargs(
            self.loaded.template,
            self.loaded.speech,
            request.think,
            request.think_param,
            request.reasoning_effort,
        )
        return wishes | kwargs


_NOT_THE_TEMPLATES = {
    "messages", "conversation", "tools", "documents", "tokenize", "add_generation_prompt", "continue_final_message",
    "self", "chat_template", "padding", "truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs",
    "return_assistant_tokens_mask",
}  # fmt: skip
"""Arguments of apply_chat_template itself (transformers 5.23)."""


def _num_items(request: ChatRequest) -> int:
    """Messages, parts and tools."""
    contents = (message.get("content") for message in request.messages if type(message) is dict)
    num_parts = sum(len(content) for content in contents if type(content) is list)
    return len(request.messages) + num_parts + len(request.tools)


def _continues(request: ChatRequest, messages: list[dict[str, Any]]) -> bool:
    """Whether the answer goes on with the last message: a trailing assistant's text does, unless told otherwise."""
    last = messages[-1]
    possible = last["role"] == "assistant" and bool(last["content"]) and not last.get("tool_calls")
    if request.continue_final_message is None:
        return possible and not request.add_generation_prompt
    if request.continue_final_message and request.add_generation_prompt:
        invalid("continue_final_message", "and add_generation_prompt exclude each other")
    if request.continue_final_message and not possible:
        invalid("continue_final_message", "needs a last message of the assistant with text")
    return request.continue_final_message
