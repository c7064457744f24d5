"""transformers by itself: what every engine stream is held against.

"Equal" is that of docs/architecture.md: a token that is not the reference's must be a near-tie there (margin below
1e-3), everything after it is checked by teacher forcing, and more than 1 near-tie in 10,000 tokens fails.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.generation import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    ExponentialDecayLengthPenalty,
    ForcedEOSTokenLogitsProcessor,
    InfNanRemoveLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from transformers.generation.logits_process import TopHLogitsWarper

from tokenyard.broker.params import Params, Processors
from tokenyard.workers.noise import log_exponential, row_keys, vocab_words

MARGIN = 1e-3
Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""One of transformers' processors: token ids [1, T] and scores [1, V] to scores."""


def plain_scores(raw: torch.Tensor, ids: list[int], num_prompt: int, params: Params) -> torch.Tensor:
    """One row's final scores [V] from raw logits [V], written as plainly as can be, by transformers where it has it."""
    scores = raw.float().clone().unsqueeze(0)
    context = torch.tensor([ids])
    for step in _processors(params, num_prompt):
        scores = step(context, scores)
    if params.temperature == 0:
        return scores[0]
    for step in _warpers(params):
        scores = step(context, scores)
    return scores[0] - noise(params.seed, len(ids) - num_prompt, len(raw))


def _processors(params: Params, num_prompt: int) -> Iterator[Step]:
    """In the order of transformers' _get_logits_processor; what it lacks comes where docs/architecture.md says."""
    asked = params.processors or Processors()
    if asked.sequence_bias:
        yield SequenceBiasLogitsProcessor([[one.token_ids, one.bias] for one in asked.sequence_bias])
    if params.repetition_penalty != 1.0:
        yield RepetitionPenaltyLogitsProcessor(params.repetition_penalty)
    yield partial(_penalties_and_biases, params, num_prompt)
    if asked.no_repeat_ngram_size:
        yield NoRepeatNGramLogitsProcessor(asked.no_repeat_ngram_size)
    if any(len(word) > 1 or word[0] not in params.stop_token_ids for word in asked.bad_words):
        yield NoBadWordsLogitsProcessor(asked.bad_words, params.stop_token_ids or None)
    if params.min_tokens:
        yield MinNewTokensLengthLogitsProcessor(num_prompt, params.min_tokens, params.stop_token_ids)
    if asked.allowed_token_ids:
        yield partial(_only, asked.allowed_token_ids)
    if asked.forced_eos_token_ids:
        yield ForcedEOSTokenLogitsProcessor(num_prompt + params.max_tokens, asked.forced_eos_token_ids)
    if asked.remove_invalid_values:
        yield InfNanRemoveLogitsProcessor()
    if asked.decay_factor != 1:
        decay = (asked.decay_start, asked.decay_factor)
        yield ExponentialDecayLengthPenalty(decay, params.stop_token_ids, num_prompt)
    if asked.suppress_tokens:
        yield SuppressTokensLogitsProcessor(asked.suppress_tokens)
    if asked.begin_suppress_tokens:
        yield SuppressTokensAtBeginLogitsProcessor(asked.begin_suppress_tokens, num_prompt)


def _warpers(params: Params) -> Iterator[Step]:
    asked = params.processors or Processors()
    yield lambda _, scores: scores / params.temperature
    if asked.top_h:
        yield TopHLogitsWarper(asked.top_h)
    if params.top_k:
        yield TopKLogitsWarper(params.top_k)
    if params.top_p < 1:
        yield TopPLogitsWarper(params.top_p)
    if params.min_p:
        yield MinPLogitsWarper(params.min_p)
    if asked.typical_p < 1:
        yield TypicalLogitsWarper(asked.typical_p)
    if asked.epsilon_cutoff:
        yield EpsilonLogitsWarper(asked.epsilon_cutoff)
    if asked.eta_cutoff:
        yield EtaLogitsWarper(asked.eta_cutoff)


def _penalties_and_biases(params: Params, num_prompt: int, context: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    emitted = context[0, num_prompt:].tolist()
    for token in set(emitted):
        scores[0, token] -= params.presence_penalty + params.frequency_penalty * emitted.count(token)
    for token, bias in params.logit_bias.items():
        scores[0, token] += bias
    return scores


def _only(allowed: list[int], context: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    kept = torch.full_like(scores, -torch.inf)
    kept[0, allowed] = scores[0, allowed]
    return kept


def noise(seed: int, index: int, vocab_size: int) -> torch.Tensor:
    """log(E) of one draw, [V]; its own quality is test_noise.py's business."""
    keys = row_keys(np.array([seed], np.uint64), np.array([index], np.uint64))
    return log_exponential(torch.from_numpy(keys), vocab_words(vocab_size, torch.device("cpu")))[0]


class Reference:
    """A model's own forward and generate, float32, one sequence at a time; counts near-ties over all its checks."""

    def __init__(self, directory: Path, **more: Any) -> None:
        """`more`: what else from_pretrained is told, as a GGUF file."""
        how = {"dtype": torch.float32, "attn_implementation": "eager", **more}
        self.model = AutoModelForCausalLM.from_pretrained(directory, **how)
        self.model.eval()
        self.num_tokens = 0
        self.num_ties = 0

    @torch.inference_mode()
    def generate(self, prompt: list[int], count: int, **config: Any) -> list[int]:
        """Greedy, with these attributes of a GenerationConfig."""
        ids = torch.tensor([prompt])
        limits = {"max_new_tokens": count, "do_sample": False}
        out = self.model.generate(ids, attention_mask=torch.ones_like(ids), **limits, **config)
        return out[0, len(prompt) :].tolist()

    @torch.inference_mode()
    def logits(self, prompt: list[int], emitted: list[int]) -> torch.Tensor:
        """Raw logits [len(emitted), V] from which each emitted token was drawn."""
        logits = self.model(input_ids=torch.tensor([prompt + emitted]), use_cache=False).logits[0]
        return logits[len(prompt) - 1 : -1]

    def check(self, prompt: list[int], emitted: list[int], params: Params) -> None:
        """Assert that this stream is the reference's, by the rule above."""
        for index, raw in enumerate(self.logits(prompt, emitted)):
            scores = plain_scores(raw, prompt + emitted[:index], len(prompt), params)
            margin = (scores.max() - scores[emitted[index]]).item()
            assert margin < MARGIN, f"token {index} of {len(emitted)} misses the reference's by {margin}"
            self.num_ties += int(margin > 0)
        self.num_tokens += len(emitted)
        assert self.num_ties <= max(1, self.num_tokens // 10_000)

    def check_greedy(self, prompt: list[int], emitted: list[int]) -> None:
        """Assert that this stream is generate's, by the same rule."""
        if emitted == self.generate(prompt, len(emitted)):
            self.num_tokens += len(emitted)
        else:
            self.check(prompt, emitted, Params(max_tokens=len(emitted), temperature=0.0))
