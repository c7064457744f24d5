"""From logits to tokens: every sequence with its own parameters, all of them at once on the device.

Order of processing (docs/architecture.md, "Sampling"):
  1. logprobs are taken from the raw logits
  2. sequence_bias; repetition penalty, then frequency and presence penalty; logit_bias; the length penalty; bans, stop
     tokens below min_tokens among them; forced tokens; what a grammar does not allow is masked
  3. temperature, then top_h, top_k, top_p of what top_k left, min_p, typical_p, epsilon and eta cutoff; ties at a
     threshold all stay
  4. the largest of logits plus noise wins; at temperature 0, the largest of step 2

A row's result depends on its own logits and parameters only. One transfer from the device a step, two more where
logprobs are asked for. Must not know of blocks, steps or sockets.
"""

import torch

from tokenyard.workers.biases import Biases, has_biases
from tokenyard.workers.drawn import BANNED, BROKEN, Drawn, LogprobRows, Sampled
from tokenyard.workers.draws import Draws, is_greedy
from tokenyard.workers.grammars import Allowed
from tokenyard.workers.noise import vocab_words
from tokenyard.workers.penalties import Penalties, TokenCounts, has_penalties
from tokenyard.workers.processors import TokenProcessor
from tokenyard.workers.scheduler import Sequence
from tokenyard.workers.stage import to_device
from tokenyard.workers.token_rules import TokenRules


class _Batch:
    """What the sequences of a step need, kept while they stay the same; None and empty where no row needs it."""

    def __init__(
        self, sequences: list[Sequence], counts: TokenCounts, rules: dict[Sequence, TokenRules], vocab: torch.Tensor
    ) -> None:
        self.sequences = list(sequences)
        params = [one.params for one in sequences]
        self.penalties = Penalties(sequences, counts) if any(map(has_penalties, params)) else None
        self.biases = Biases(self.sequences) if any(map(has_biases, params)) else None
        self.processor = TokenProcessor(self.sequences, rules, vocab) if any(one.processors for one in params) else None
        self.draws = None if all(map(is_greedy, params)) else Draws(sequences, vocab)
        self.is_plain = not (self.penalties or self.biases or self.processor or self.draws)
        """Whether the largest logit is the token."""
        self.logprob_rows = [row for row, one in enumerate(params) if one.logprobs >= 0]
        self.logprob_places = to_device(self.logprob_rows, torch.int64, vocab.device)
        self.num_logprobs = min(max((one.logprobs for one in params), default=0), len(vocab))


class Sampler:
    """Draws the next tokens. Holds what it knows of a sequence until forget()."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab = vocab_words(vocab_size, device)
        self._counts = TokenCounts(vocab_size, device)
        self._rules: dict[Sequence, TokenRules] = {}
        self._batch = _Batch([], self._counts, self._rules, self._vocab)

    def forget(self, sequence: Sequence) -> None:
        """Free what is kept for a sequence."""
        self._counts.forget(sequence)
        self._rules.pop(sequence, None)
        if sequence in self._batch.sequences:
            self._batch = _Batch([], self._counts, self._rules, self._vocab)

    def sample(self, logits: torch.Tensor, sequences: list[Sequence], allowed: Allowed | None = None) -> list[Sampled]:
        """The next token of each sequence, waited for."""
        return self.draw(logits, sequences, allowed).read()

    def draw(self, logits: torch.Tensor, sequences: list[Sequence], allowed: Allowed | None = None) -> Drawn:
        """Launch the draw of the next token of each sequence. logits: [R, V], raw, of any float type."""
        if sequences != self._batch.sequences:
            self._batch = _Batch(sequences, self._counts, self._rules, self._vocab)
        batch = self._batch
        raw = logits.float()
        best, tokens = self._shape(raw, batch, allowed).max(dim=-1)
        if batch.processor is None:
            tokens = torch.where(best.isfinite(), tokens, BROKEN)
        else:
            tokens = torch.where(best.isfinite(), tokens, torch.where(raw.amax(dim=-1).isfinite(), BANNED, BROKEN))
        if batch.penalties is not None:
            batch.penalties.count(tokens[batch.penalties.rows])
        return Drawn(tokens, self._logprobs(raw, tokens, batch) if batch.logprob_rows else None)

    def _shape(self, raw: torch.Tensor, batch: _Batch, allowed: Allowed | None) -> torch.Tensor:
        """Steps 2 to 4 of the order above: scores [R, V] whose largest is the token. Does not write to `raw`."""
        if batch.is_plain and allowed is None:
            return raw
        scores = raw.clone()
        if batch.processor is not None:
            batch.processor.begin(scores)
        if batch.penalties is not None:
            rows = batch.penalties.rows
            scores[rows] = batch.penalties.shape(scores[rows])
        if batch.biases is not None:
            batch.biases.add_to(scores)
        if batch.processor is not None:
            batch.processor.end(scores)
        if allowed is not None and batch.processor is not None:
            allowed.prevail(scores, raw)
        elif allowed is not None:
            allowed.mask(scores)
        if batch.draws is not None:
            rows = batch.draws.rows
            scores[rows] = batch.draws.shape(scores[rows])
        return scores

    def _logprobs(self, raw: torch.Tensor, tokens: torch.Tensor, batch: _Batch) -> LogprobRows:
        """Step 1."""
        logprobs = raw[batch.logprob_places].log_softmax(dim=-1)
        chosen = logprobs.gather(1, tokens[batch.logprob_places].clamp(min=0).unsqueeze(1))
        top = logprobs.topk(batch.num_logprobs, dim=-1)
        counts = [batch.sequences[row].params.logprobs for row in batch.logprob_rows]
        return LogprobRows(batch.logprob_rows, counts, torch.cat([chosen, top.values], dim=1), top.indices)
