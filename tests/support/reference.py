"""transformers by itself: what every engine stream is held against.

"Equal" is that of docs/architecture.md: a token that is not the reference's must be a near-tie there (margin below
1e-3), everything after it is checked by teacher forcing, and more than 1 near-tie in 10,000 tokens fails.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.generation import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tokenyard.broker.params import Params
from tokenyard.workers.noise import log_exponential, row_keys, vocab_words

MARGIN = 1e-3


def plain_scores(raw: torch.Tensor, ids: list[int], num_prompt: int, params: Params) -> torch.Tensor:
    """One row's final scores [V] from raw logits [V], written as plainly as can be, by transformers where it has it."""
    scores = raw.float().clone().unsqueeze(0)
    context = torch.tensor([ids])
    emitted = ids[num_prompt:]
    if params.repetition_penalty != 1.0:
        scores = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)(context, scores)
    for token in set(emitted):
        scores[0, token] -= params.presence_penalty + params.frequency_penalty * emitted.count(token)
    for token, bias in params.logit_bias.items():
        scores[0, token] += bias
    if len(emitted) < params.min_tokens:
        scores[0, params.stop_token_ids] = -torch.inf
    if params.temperature == 0:
        return scores[0]
    scores = scores / params.temperature
    if params.top_k:
        scores = TopKLogitsWarper(params.top_k)(context, scores)
    if params.top_p < 1:
        scores = TopPLogitsWarper(params.top_p)(context, scores)
    if params.min_p:
        scores = MinPLogitsWarper(params.min_p)(context, scores)
    return scores[0] - noise(params.seed, len(emitted), len(raw))


def noise(seed: int, index: int, vocab_size: int) -> torch.Tensor:
    """log(E) of one draw, [V]; its own quality is test_noise.py's business."""
    keys = row_keys(np.array([seed], np.uint64), np.array([index], np.uint64))
    return log_exponential(torch.from_numpy(keys), vocab_words(vocab_size, torch.device("cpu")))[0]


class Reference:
    """A model's own forward and generate, float32, one sequence at a time; counts near-ties over all its checks."""

    def __init__(self, directory: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
        self.model.eval()
        self.num_tokens = 0
        self.num_ties = 0

    @torch.inference_mode()
    def generate(self, prompt: list[int], count: int) -> list[int]:
        """Greedy."""
        ids = torch.tensor([prompt])
        out = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
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
