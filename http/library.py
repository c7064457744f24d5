"""Tokenizers of the models that are up, each loaded once, in a thread, from exactly the worker's source and commit.

Without torch: main.py sets USE_TORCH=0 first, and AutoTokenizer, which imports it all the same, is not used.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from functools import cached_property

from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.gguf_tokenizer import tokenizer_folder
from tokenyard.broker.wire import Card
from tokenyard.http import infill
from tokenyard.http.formats.forcing import Forcing
from tokenyard.http.formats.names import chosen, read_choices
from tokenyard.http.formats.registry import recognise
from tokenyard.http.formats.thoughts import Marks
from tokenyard.http.infill import Infill
from tokenyard.http.memory import trim
from tokenyard.http.vocabulary import Vocabulary

log = logging.getLogger(__name__)

MAX_OTHERS = 8
"""Kept tokenizers of models that are not up: one of 151,000 tokens takes some 100 MB."""
TEMPLATE_FAILURES = (
    TemplateError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError,
)  # fmt: skip
"""Templates are programs of the model's author: they refuse by raise_exception, or just fall over."""


class LoadedTokenizer:
    """All that the front reads of one model."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, tool_format: str | None = None) -> None:
        """`tool_format` names the format of tool calls, where its template is not to tell."""
        self.chat = tokenizer
        """For apply_chat_template."""
        self.backend: Tokenizer = tokenizer.backend_tokenizer
        """For text to ids and back."""
        self.backend.no_padding()  # files of embedding models may set both, for batches of another program
        self.backend.no_truncation()
        self.vocabulary = Vocabulary(self.backend)
        template = tokenizer.chat_template
        self.template: str = template if isinstance(template, str) else ""
        """Jinja source; empty for a base model."""
        speech = recognise(self.template, tool_format, getattr(tokenizer, "response_template", None))
        self.speech = speech._replace(opens=speech.thought is not None and _opens_thoughts(tokenizer, speech.thought))
        added = self.backend.get_added_tokens_decoder()
        self.special = {token.content: token_id for token_id, token in added.items() if token.special}
        """Special tokens by their text."""
        self.hidden = frozenset(
            token_id for text, token_id in self.special.items() if not any(text in mark for mark in speech.marks)
        )
        """Special tokens that are no part of a call or a thought: what a parser must not see."""
        self.special_ids = frozenset(self.special.values())
        self.marks = frozenset(token.content for token in added.values())
        """What a text must not hold that is to be nothing but text: the marks of turns, calls and the like."""

    @cached_property
    def forcing(self) -> Forcing:
        """Grammars of the model's turns."""
        return Forcing(self.speech.format and self.speech.format.layout, self.speech.thought, self.special)

    @cached_property
    def infill(self) -> Infill | None:
        """How the model fills in the middle, if its tokenizer tells."""
        return infill.recognise(self.backend)


def _opens_thoughts(tokenizer: PreTrainedTokenizerFast, marks: Marks) -> bool:
    """Whether a thought that is asked for is opened by the chat template, not by the model."""
    messages = [{"role": "user", "content": "?"}]
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=True, thinking=True
        )
    except TEMPLATE_FAILURES:
        return False
    return isinstance(text, str) and text.rstrip().endswith(marks.opening.rstrip())


class TokenizerLibrary:
    """Loads on demand and remembers; all calls on the event loop's thread."""

    def __init__(self, tool_formats: Sequence[str] = ()) -> None:
        """Raises SetupError if one of FrontOptions.tool_formats is none."""
        self._tool_formats = read_choices(tool_formats)
        self._loads: dict[tuple[str, str, str], asyncio.Task[LoadedTokenizer]] = {}
        """The last used at the end."""

    def preload(self, card: Card) -> None:
        """Begin to load; a failure is logged, and the next request tries again."""
        self._load(card)

    def at_hand(self, card: Card) -> LoadedTokenizer | None:
        """What `get` would return without waiting."""
        key = _key(card)
        load = self._loads.get(key)
        if load is None or not load.done() or load.exception() is not None:
            return None
        self._loads[key] = self._loads.pop(key)
        return load.result()

    def forget_all_but(self, cards: Iterable[Card]) -> None:
        """Keep these and the last used of the others, whose models may come back."""
        kept = {_key(card) for card in cards}
        others = [key for key, load in self._loads.items() if key not in kept and load.done()]
        for key in others[:-MAX_OTHERS]:
            del self._loads[key]

    async def get(self, card: Card) -> LoadedTokenizer:
        """Raises TokenyardError if the tokenizer cannot be loaded."""
        # Shielded: one client that leaves must not end the load for all.
        return await asyncio.shield(self._load(card))

    def _load(self, card: Card) -> "asyncio.Task[LoadedTokenizer]":
        key = _key(card)
        load = self._loads.get(key)
        if load is None or (load.done() and load.exception() is not None):
            load = self._loads[key] = asyncio.create_task(_load_in_thread(card, chosen(self._tool_formats, card.names)))
            load.add_done_callback(_log_failure)
        return load


def _key(card: Card) -> tuple[str, str, str]:
    """All that says which files a tokenizer is made of."""
    return card.source, card.commit, card.file


async def _load_in_thread(card: Card, tool_format: str | None) -> LoadedTokenizer:
    try:
        return LoadedTokenizer(await asyncio.to_thread(load_tokenizer, card), tool_format)
    except (OSError, ValueError) as error:
        raise TokenyardError("worker_error", f"the tokenizer of {card.names[0]} cannot be loaded") from error


def _log_failure(load: "asyncio.Task[LoadedTokenizer]") -> None:
    if not load.cancelled() and (error := load.exception()) is not None:
        log.error("%s: %s", error, error.__cause__)


def load_tokenizer(card: Card) -> PreTrainedTokenizerFast:
    """From a local directory, or from the Hub at the card's commit. Raises OSError, ValueError or TokenyardError."""
    folder = tokenizer_folder(card)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    # A vocabulary of 151,000 tokens is read by way of twice its size.
    trim()
    return tokenizer
