"""From a grammar in words to one that xgrammar can follow over a model's own vocabulary.

Slow (milliseconds to seconds), so it runs in threads of its own, and the step loop only asks for futures. Must not know
of sequences. xgrammar is imported at the first use: most workers never need it.
"""

import json
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerFast

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.gguf_tokenizer import tokenizer_folder
from tokenyard.broker.params import Grammar
from tokenyard.broker.wire import Card

if TYPE_CHECKING:
    import xgrammar

MAX_WHITESPACE = 20
"""Between two tokens of JSON: llama.cpp's bound. Without one a small model indents until its answer ends."""
CACHE_BYTES = 256 << 20
"""Compiled grammars that are kept: one of 40 properties takes 0.14 MB with a vocabulary of 2,048 (measured)."""
NUM_THREADS = 2
"""So that one grammar that takes seconds does not hold up all others. Compiling leaves the GIL alone (measured)."""
THREADS_EACH = 2
"""Of one compilation, so that on a CPU the model's own threads keep their cores."""
NO_TEXT = b"\xff"
"""Never part of UTF-8. Tokens without any bytes would be refused even where a grammar names them (xgrammar 0.2.8)."""
_ANY_OBJECT = '{"type": "object"}'
_PLACE = re.compile(r"^\[[\d:]+\] \S+: (?:Check failed: .* is (?:true|false): )?")
"""What xgrammar puts before its words: time, source file and line."""


class GrammarCompiler:
    """Compiles grammars for one model, and remembers them. The token id `vocab_size` stands for the end of the text."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self._lock = Lock()
        self._made: xgrammar.GrammarCompiler | None = None
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="grammar")
        self._kept: dict[Grammar, Future[xgrammar.CompiledGrammar]] = {}
        """Being compiled, or compiled; the last used at the end."""

    def begin(self, grammar: Grammar) -> "Future[xgrammar.CompiledGrammar]":
        """Compile in another thread, or find what was compiled. The future raises what compile() does."""
        self._evict()
        future = self._kept.pop(grammar, None) or self._threads.submit(self.compile, grammar)
        self._kept[grammar] = future
        return future

    def _evict(self) -> None:
        """Forget failures, and the longest unused above CACHE_BYTES."""
        num_bytes = 0
        for grammar, future in reversed(list(self._kept.items())):
            if not future.done():
                continue
            failed = future.exception() is not None
            num_bytes += 0 if failed else future.result().memory_size_bytes
            if failed or num_bytes > CACHE_BYTES:
                del self._kept[grammar]

    def compile(self, grammar: Grammar) -> "xgrammar.CompiledGrammar":
        """Raises TokenyardError, naming the request's field, for what is no grammar or cannot be followed."""
        compiler = self._compiler()
        ways: dict[str, Callable[[str], xgrammar.CompiledGrammar]] = {
            "json_schema": lambda text: compiler.compile_json_schema(text, max_whitespace_cnt=MAX_WHITESPACE),
            "json_object": lambda _: compiler.compile_json_schema(_ANY_OBJECT, max_whitespace_cnt=MAX_WHITESPACE),
            "regex": compiler.compile_regex,
            "choice": lambda text: compiler.compile_grammar(_alternatives(text)),
            "ebnf": compiler.compile_grammar,
            "structural_tag": compiler.compile_structural_tag,
        }
        if grammar.kind not in ways:
            raise TokenyardError("invalid_value", f"this worker knows no grammar of kind {grammar.kind}", grammar.param)
        try:
            return ways[grammar.kind](grammar.text)
        except (RuntimeError, ValueError, TypeError) as error:
            words = _PLACE.sub("", str(error).strip()) or "it is beyond what can be compiled"
            raise TokenyardError("invalid_value", f"{grammar.param} cannot be used: {words}", grammar.param) from error

    def _compiler(self) -> "xgrammar.GrammarCompiler":
        import xgrammar

        with self._lock:
            if self._made is None:
                # its own cache makes it fail at more than 128 repetitions in a schema's pattern (0.2.8)
                self._made = xgrammar.GrammarCompiler(
                    _vocabulary(self._card), max_threads=THREADS_EACH, cache_enabled=False
                )
            return self._made


def _vocabulary(card: Card) -> "xgrammar.TokenizerInfo":
    """The bytes of every token. Special ones have bytes that no text can hold: only a grammar that names such a token
    allows it. One more token means the end."""
    import xgrammar

    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
            tokenizer_folder(card, apart=False), local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise TokenyardError("worker_error", f"the tokenizer of {card.names[0]} cannot be loaded") from error
    # some stop token must be named; we have our own below
    tokens = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=card.vocab_size, stop_token_ids=[0])
    texts = tokens.decoded_vocab
    for token_id, token in tokenizer.added_tokens_decoder.items():
        if token.special and token_id < card.vocab_size:
            texts[token_id] = NO_TEXT
    return xgrammar.TokenizerInfo(
        [*texts, b""], xgrammar.VocabType.RAW, vocab_size=card.vocab_size + 1, stop_token_ids=[card.vocab_size]
    )


def _alternatives(text: str) -> str:
    """EBNF of a JSON list of strings, one of which the text must be; JSON's escapes are EBNF's."""
    choices = json.loads(text)
    return "root ::= " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
