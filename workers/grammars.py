"""Structured output: which tokens may come next, for each sequence that has a grammar.

A sequence waits until its grammar is compiled, off the step loop (grammar_compiler.py), and is scheduled after that.
From then on it has its place in the grammar: every emitted token moves it, and before a draw the host writes its row of
bits, one for each token that may come, which the device lays over the logits. Must not know of blocks or lanes.
"""

import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import Card, Finish
from tokenyard.workers.grammar_compiler import GrammarCompiler
from tokenyard.workers.scheduler import Sequence
from tokenyard.workers.stage import to_device

if TYPE_CHECKING:
    import xgrammar

log = logging.getLogger(__name__)

WORD_BITS = 32
Bits = np.ndarray[tuple[int], np.dtype[np.uint32]]
"""[W]: 32 tokens a word, lowest bit first."""
ALL = np.uint32(0xFFFFFFFF)


class Allowed(NamedTuple):
    """The tokens that may be drawn in the G rows of a batch that have a grammar."""

    rows: torch.Tensor  # int64 [G], into the batch
    bits: torch.Tensor  # int32 [G, W], 32 tokens a word, lowest bit first

    def mask(self, scores: torch.Tensor) -> None:
        """Write minus infinity where a token is not allowed. scores: [R, V], on the device of the bits."""
        chosen = scores[self.rows]
        if scores.device.type == "cpu":
            import xgrammar

            # 4 times as fast as forbid(); xgrammar's kernels for a GPU want a compiler at run time
            xgrammar.apply_token_bitmask_inplace(chosen, self.bits, vocab_size=scores.shape[1])
        else:
            forbid(chosen, self.bits)
        scores[self.rows] = chosen

    def prevail(self, scores: torch.Tensor, raw: torch.Tensor) -> None:
        """The same where other rules may have banned all that is allowed: then these give way, for this one token.

        raw: [R, V], the model's own logits.
        """
        free = raw.clone()
        self.mask(free)
        self.mask(scores)
        chosen = scores[self.rows]
        stuck = chosen.amax(dim=-1, keepdim=True) == -torch.inf
        scores[self.rows] = torch.where(stuck, free[self.rows], chosen)


def forbid(scores: torch.Tensor, bits: torch.Tensor) -> None:
    """Write minus infinity where a bit is 0. scores: [G, V]; bits: int32 [G, W]."""
    places = torch.arange(WORD_BITS, dtype=torch.int32, device=scores.device)
    allowed = (bits.unsqueeze(-1) >> places & 1).flatten(1)[:, : scores.shape[1]]  # [G, V]
    scores.masked_fill_(allowed == 0, -torch.inf)


class Grammars:
    """The grammars of one engine's sequences."""

    def __init__(self, card: Card, device: torch.device) -> None:
        self._vocab_size = card.vocab_size
        self._device = device
        self._compiler = GrammarCompiler(card)
        self._compiling: dict[Sequence, Future[xgrammar.CompiledGrammar]] = {}
        self._places: dict[Sequence, Place] = {}

    @property
    def num_compiling(self) -> int:
        return len(self._compiling)

    def begin(self, sequence: Sequence) -> None:
        """Compile the sequence's grammar; compiled() gives it back."""
        assert sequence.params.grammar is not None
        self._compiling[sequence] = self._compiler.begin(sequence.params.grammar)

    def compiled(self) -> list[tuple[Sequence, TokenyardError | None]]:
        """Sequences that have waited long enough, each with what is wrong with its grammar."""
        ended = [(sequence, future) for sequence, future in self._compiling.items() if future.done()]
        results: list[tuple[Sequence, TokenyardError | None]] = []
        for sequence, future in ended:
            del self._compiling[sequence]
            error: BaseException | None = future.exception()
            try:
                if error is None:
                    self._places[sequence] = Place(sequence, future.result(), self._vocab_size)
            except (TokenyardError, RuntimeError) as failure:  # xgrammar's own checks raise RuntimeError
                error = failure
            results.append((sequence, None if error is None else _told(error)))
        return results

    def is_compiling(self, sequence: Sequence) -> bool:
        return sequence in self._compiling

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended, perhaps before its grammar was there."""
        self._places.pop(sequence, None)
        self._compiling.pop(sequence, None)

    def accept(self, sequence: Sequence, token: int) -> Finish | None:
        """Go on over an emitted token, after which more is to follow. A finish if it should not have come."""
        place = self._places.get(sequence)
        if place is None or place.accept(token):
            return None
        return Finish("error", "worker_error", f"token {token} came where the grammar does not allow it")

    def allowed(self, sequences: list[Sequence]) -> Allowed | None:
        """What may come next in a batch; None if no row has a grammar."""
        rows = [row for row, sequence in enumerate(sequences) if sequence in self._places]
        if not rows:
            return None
        bits = np.stack([self._places[sequences[row]].next_bits() for row in rows]).view(np.int32)
        return Allowed(to_device(rows, torch.int64, self._device), to_device(bits, torch.int32, self._device))

    def end(self, sequence: Sequence) -> Finish | None:
        """Why nothing can follow in a sequence, as its last row of bits showed; None if something can."""
        place = self._places.get(sequence)
        return place.end if place else None


class Place:
    """How far a sequence is in its grammar."""

    def __init__(self, sequence: Sequence, compiled: "xgrammar.CompiledGrammar", vocab_size: int) -> None:
        """Raises TokenyardError where the tokens emitted before a resume do not fit."""
        import xgrammar

        self._sequence = sequence
        self._end_id = vocab_size
        self._matcher = xgrammar.GrammarMatcher(compiled)
        self._bits = np.zeros((1, vocab_size // WORD_BITS + 1), np.int32)  # one row, the end's bit included
        self._words: Bits = self._bits[0].view(np.uint32)
        self.end: Finish | None = None
        """Set by next_bits() where nothing can follow."""
        if not all(map(self.accept, sequence.ids[sequence.num_prompt :])):
            raise self._error("the text so far does not fit")

    def accept(self, token: int) -> bool:
        """Go on over a token; False if it is not allowed here."""
        return self._matcher.accept_token(token)

    def next_bits(self) -> Bits:
        """The tokens that may come. All of them where none may, to keep the row finite: see `end`."""
        self._matcher.fill_next_token_bitmask(self._bits)
        bits, params = self._words, self._sequence.params
        may_end = self._matcher.is_completed()
        for token in (self._end_id, *params.stop_token_ids):
            _clear(bits, token)
        goes_on = bool(bits.any())
        if may_end and (self._sequence.num_drawn >= params.min_tokens or not goes_on):
            for token in params.stop_token_ids:
                _set(bits, token)
        if not bits.any():
            self.end = Finish("stop") if may_end else self._dead_end()
            bits.fill(ALL)
        return bits

    def _dead_end(self) -> Finish:
        error = self._error("no token of this model can go on from here")
        return Finish("error", error.code, error.words, error.param)

    def _error(self, words: str) -> TokenyardError:
        grammar = self._sequence.params.grammar
        assert grammar is not None
        return TokenyardError("invalid_value", f"{grammar.param}: {words}", grammar.param)


def _told(error: BaseException) -> TokenyardError:
    """What the sequence ends with. A failure that nobody foresaw must not take its neighbours along."""
    if isinstance(error, TokenyardError):
        return error
    log.error("a grammar could not be compiled", exc_info=error)
    return TokenyardError("worker_error", f"the grammar could not be compiled: {type(error).__name__}")


def _set(bits: Bits, token: int) -> None:
    bits[token // WORD_BITS] |= np.uint32(1 << token % WORD_BITS)


def _clear(bits: Bits, token: int) -> None:
    bits[token // WORD_BITS] &= ALL ^ np.uint32(1 << token % WORD_BITS)
