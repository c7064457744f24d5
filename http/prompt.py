"""From what a client sent to prompt token ids: tokenizers, chat templates, and the checks of messages.

Loads tokenizers without torch (main.py sets USE_TORCH=0 first). Knows no sockets and no jobs.
"""

import asyncio
import logging
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import Card
from tokenyard.http.errors import invalid
from tokenyard.http.messages import read_messages, read_tools
from tokenyard.http.schemas import ChatRequest, CompletionRequest
from tokenyard.http.vocabulary import Vocabulary

log = logging.getLogger(__name__)

LONG_PROMPT_CHARS = 16_000
"""Texts above this go to a thread: at about 1 µs a character, tokenizing them holds the loop for over 10 ms."""


class Prompts:
    """One model's way from text to ids."""

    def __init__(self, card: Card, tokenizer: PreTrainedTokenizerFast) -> None:
        self.card = card
        self.backend: Tokenizer = tokenizer.backend_tokenizer
        self.vocabulary = Vocabulary(self.backend)
        self._tokenizer = tokenizer
        template = tokenizer.chat_template
        self._template: str = template if isinstance(template, str) else ""
        self.calls_tools = "<tool_call>" in self._template
        """Whether the template teaches Hermes' format of tool calls, the one that toolcalls.py reads."""

    async def of_chat(self, request: ChatRequest) -> list[int]:
        """The ids of a rendered conversation. Raises TokenyardError naming what cannot be rendered."""
        return await self._encode(self._render(request), add_special_tokens=False)

    async def of_completion(self, request: CompletionRequest) -> list[list[int]]:
        """The ids of each prompt. Raises TokenyardError naming the prompt at fault."""
        prompt = request.prompt
        if isinstance(prompt, str):
            return [await self._text(prompt, "prompt", request.add_special_tokens)]
        if not prompt:
            invalid("prompt", "must not be empty")
        if type(prompt[0]) is int:
            return [self._ids(prompt, "prompt")]
        prompts = []
        for index, one in enumerate(prompt):
            param = f"prompt.{index}"
            if isinstance(one, list):
                prompts.append(self._ids(one, param))
            else:
                prompts.append(await self._text(one, param, request.add_special_tokens))
        return prompts

    async def _text(self, text: Any, param: str, add_special_tokens: bool) -> list[int]:
        if not isinstance(text, str):
            invalid(param, "must be a string or a list of token ids, as all of the prompt's items")
        ids = await self._encode(text, add_special_tokens)
        if not ids:
            invalid(param, "must not be empty")
        return ids

    def _ids(self, ids: list[Any], param: str) -> list[int]:
        if not ids:
            invalid(param, "must not be empty")
        for index, token_id in enumerate(ids):
            if type(token_id) is not int:
                invalid(f"{param}.{index}", "must be a token id, as all of its list")
            if not 0 <= token_id < self.card.vocab_size:
                invalid(f"{param}.{index}", f"must be a token id from 0 to {self.card.vocab_size - 1}, not {token_id}")
        return ids

    async def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        def encode() -> list[int]:
            ids: list[int] = self.backend.encode(text, add_special_tokens=add_special_tokens).ids
            return ids

        return encode() if len(text) <= LONG_PROMPT_CHARS else await asyncio.to_thread(encode)

    def _render(self, request: ChatRequest) -> str:
        if not self._template:
            raise TokenyardError(
                "invalid_value",
                f"{self.card.names[0]} is a base model without a chat template; use /v1/completions",
                "messages",
            )
        messages = read_messages(request.messages)
        tools = read_tools(request.tools) if request.tool_choice != "none" else []
        if tools and not self.calls_tools:
            invalid("tools", f"are not supported with {self.card.names[0]}: its chat template knows no tools")
        continued = _continues(request, messages)
        generation_prompt = not continued if request.add_generation_prompt is None else request.add_generation_prompt
        try:
            text = self._tokenizer.apply_chat_template(
                messages,
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=generation_prompt,
                continue_final_message=continued,
                **self._template_kwargs(request),
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            # Templates are programs of the model's author: they refuse by raise_exception, or just fall over.
            raise TokenyardError(
                "invalid_value", f"the model's chat template refuses these messages: {error}", "messages"
            ) from error
        assert isinstance(text, str)
        return text

    def _template_kwargs(self, request: ChatRequest) -> dict[str, Any]:
        kwargs = dict(request.chat_template_kwargs)
        for name in kwargs.keys() & _RESERVED:
            invalid(f"chat_template_kwargs.{name}", "is a field of its own")
        effort = request.reasoning_effort
        if effort is None:
            return kwargs
        if "reasoning_effort" in self._template:
            return {"reasoning_effort": effort} | kwargs
        if "enable_thinking" in self._template:
            return {"enable_thinking": effort != "none"} | kwargs
        if effort != "none":
            invalid("reasoning_effort", f"is not supported with {self.card.names[0]}: its chat template knows none")
        return kwargs


_RESERVED = {
    "messages", "conversation", "tools", "tokenize", "add_generation_prompt", "continue_final_message", "chat_template",
    "documents", "padding", "truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs",
    "return_assistant_tokens_mask",
}  # fmt: skip
"""Arguments of apply_chat_template that are not the template's."""


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


class PromptLibrary:
    """The Prompts of every model seen, each loaded once, in a thread."""

    def __init__(self) -> None:
        self._loads: dict[tuple[str, str], asyncio.Task[Prompts]] = {}

    def preload(self, card: Card) -> None:
        """Start to load a model's tokenizer; a failure is logged and tried again when a request needs it."""
        self._load(card)

    def has(self, card: Card) -> bool:
        """Whether requests for this model can be rendered without waiting."""
        load = self._loads.get((card.source, card.commit))
        return load is not None and load.done() and load.exception() is None

    async def get(self, card: Card) -> Prompts:
        """Raises TokenyardError if the tokenizer cannot be loaded."""
        # Shielded: one client that leaves must not end the load for all.
        return await asyncio.shield(self._load(card))

    def _load(self, card: Card) -> "asyncio.Task[Prompts]":
        key = (card.source, card.commit)
        load = self._loads.get(key)
        if load is None or (load.done() and load.exception() is not None):
            load = self._loads[key] = asyncio.create_task(self._in_thread(card))
            load.add_done_callback(_log_failure)
        return load

    async def _in_thread(self, card: Card) -> Prompts:
        try:
            return Prompts(card, await asyncio.to_thread(load_tokenizer, card))
        except (OSError, ValueError) as error:
            raise TokenyardError("worker_error", f"the tokenizer of {card.names[0]} cannot be loaded") from error


def _log_failure(load: "asyncio.Task[Prompts]") -> None:
    if not load.cancelled() and (error := load.exception()) is not None:
        log.error("%s: %s", error, error.__cause__)


def load_tokenizer(card: Card) -> PreTrainedTokenizerFast:
    """From a local directory, or from the Hub at exactly the worker's commit. Raises OSError or ValueError."""
    local = Path(card.source).is_dir()
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
        card.source, revision="main" if local else card.commit, local_files_only=local
    )
    return tokenizer
