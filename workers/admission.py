"""What a worker refuses before it begins. Must not know of sequences or steps."""

from collections.abc import Iterable

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import Params
from tokenyard.broker.wire import Card
from tokenyard.workers.lane import Lane
from tokenyard.workers.token_rules import refuse_impossible


class Admission:
    """Of one engine."""

    def __init__(self, card: Card, limit: int, lane: Lane) -> None:
        """`limit`: tokens that a sequence can have, prompt and emitted together."""
        self._card = card
        self._limit = limit
        self._lane = lane

    def check(self, prompt_ids: list[int], emitted_ids: list[int], params: Params) -> None:
        """Raise TokenyardError for what no step could ever serve."""
        if self._card.lane == "encoder":
            raise TokenyardError("invalid_value", "this model makes embeddings only: it gives no text", "model")
        vocab_size = self._card.vocab_size
        if not prompt_ids:
            raise TokenyardError("invalid_value", "the prompt is empty", "prompt")
        if max(prompt_ids) >= vocab_size or (emitted_ids and max(emitted_ids) >= vocab_size):
            raise TokenyardError("invalid_value", f"token ids must be below {vocab_size:,}", "prompt")
        if params.prompt_logprobs >= 0 and not self._lane.scores_prompts():
            words = "this model's own code gives no logprobs of a prompt"
            raise TokenyardError("invalid_value", words, "prompt_logprobs")
        for param in ("logit_bias", "stop_token_ids", "score_ids"):
            ids: Iterable[int] = getattr(params, param)
            if any(not 0 <= one < vocab_size for one in ids):
                raise TokenyardError("invalid_value", f"{param}: token ids must be below {vocab_size:,}", param)
        if params.processors is not None:
            refuse_impossible(params.processors, vocab_size)
        most = self._limit - min(params.max_tokens, 1)
        if len(prompt_ids) > most:
            words = f"the prompt has {len(prompt_ids):,} tokens; at most {most:,} fit, so that one can be emitted"
            if not params.max_tokens:
                words = f"the prompt has {len(prompt_ids):,} tokens; at most {most:,} fit"
            if self._limit < self._card.context_length:
                words += " in this worker's KV memory"
            raise TokenyardError("context_length_exceeded", words)  # messages or prompt: only the front knows
