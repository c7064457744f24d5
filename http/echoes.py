"""What an answer tells of its prompt: the text before its own, and the tokens' logprobs in OpenAI's and vLLM's shapes.

Knows no sockets.
"""

from typing import Any

from tokenyard.http.detokenize import Detokenizer
from tokenyard.http.library import LoadedTokenizer
from tokenyard.http.plans import UNLIKELY
from tokenyard.http.prompt import Prompt
from tokenyard.http.prompt_scores import PromptToken
from tokenyard.http.vocabulary import Vocabulary


class Echo:
    """A prompt that begins its answer."""

    def __init__(self, prompt: Prompt, loaded: LoadedTokenizer, skip_special: bool) -> None:
        self._ids = prompt.ids
        self._loaded = loaded
        self._skip_special = skip_special
        self.text = prompt.text or loaded.backend.decode(prompt.ids, skip_special_tokens=skip_special)
        """As it was given, where it was text."""

    def logprobs(self, tokens: list[PromptToken], most: int, vocabulary: Vocabulary) -> dict[str, list[Any]]:
        """Parallel lists, with the `most` likeliest. The first token has no logprob, as nothing precedes it."""
        return {
            "tokens": [vocabulary.token(token_id)[0] for token_id in self._ids],
            "token_logprobs": [None, *(max(token.logprob, UNLIKELY) for token in tokens)],
            "top_logprobs": [None, *(top_logprobs(token.top[:most], vocabulary) for token in tokens)],
            "text_offset": self._offsets(),
        }

    def _offsets(self) -> list[int]:
        """The character of the text where each token begins."""
        detokenizer = Detokenizer(self._loaded.backend, self._skip_special)
        offsets, count = [], 0
        for token_id in self._ids:
            offsets.append(min(count, len(self.text)))
            count += len(detokenizer.push(token_id))
        return offsets


def top_logprobs(top: list[tuple[int, float]], vocabulary: Vocabulary) -> dict[str, float]:
    """By text: tokens whose text is the same share one key, and the likeliest counts."""
    return {vocabulary.token(token_id)[0]: max(logprob, UNLIKELY) for token_id, logprob in reversed(top)}


def vllm_prompt_logprobs(tokens: list[PromptToken], vocabulary: Vocabulary) -> list[dict[str, Any] | None]:
    """One object a token, from ids to what is known of them, the token itself first; null for the prompt's first."""

    def describe(token_id: int, logprob: float, rank: int) -> dict[str, Any]:
        text, _ = vocabulary.token(token_id)
        return {"logprob": max(logprob, UNLIKELY), "rank": rank, "decoded_token": text}

    shaped: list[dict[str, Any] | None] = [None]
    for token in tokens:
        own = {str(token.token_id): describe(token.token_id, token.logprob, token.rank)}
        others = {
            str(token_id): describe(token_id, logprob, rank) for rank, (token_id, logprob) in enumerate(token.top, 1)
        }
        shaped.append(own | {key: value for key, value in others.items() if key not in own})
    return shaped
