"""What a job asks of the sampler: part of the wire contract.

The front has already merged the request with the model's generation_config and checked every range, so each field holds
a definite value. Positional on the wire, so fields are only ever added at the end, with a default.
"""

from typing import NamedTuple

from tokenyard.broker.ranges import AboveZero, Natural, NotNegative, NumTop, Seed, Share, TokenId


class Grammar(NamedTuple):
    """What the emitted text must match, up to the stop token."""

    kind: str
    """One of GRAMMAR_KINDS."""
    text: str
    """A JSON Schema, nothing (json_object), a regular expression, a JSON list of strings (choice), a grammar whose root
    rule is `root` (ebnf), or xgrammar's structural tag as JSON."""
    param: str
    """The request's field that it came from, for the words of an error."""


GRAMMAR_KINDS = ("json_schema", "json_object", "regex", "choice", "ebnf", "structural_tag")


MAX_LISTED_IDS = 16_384
"""Of one list of single tokens. The longest in use is known to be Chameleon's 8,192 image tokens."""
MAX_RUNS = 2_048
"""Of bad_words and of sequence_bias; lists of bad words have hundreds."""
MAX_RUN_TOKENS = 64
"""Of one bad word or biased sequence: with MAX_RUNS of them a Submit stays far below the largest message."""


class SequenceBias(NamedTuple):
    """What is added to the logit of the last token where all before it came just now."""

    token_ids: list[TokenId]
    """At least one."""
    bias: float


class Processors(NamedTuple):
    """What few requests ask for of transformers' other logits processors; each does nothing at its default."""

    sequence_bias: list[SequenceBias] = []
    """Their tokens before the last may be prompt and emitted ones; each `token_ids` comes once."""
    no_repeat_ngram_size: Natural = 0
    """A token that would repeat so many tokens of prompt and answer is not drawn; 0 is off."""
    bad_words: list[list[TokenId]] = []
    """Runs of tokens whose last one is not drawn after the others; a stop token alone is none."""
    allowed_token_ids: list[TokenId] = []
    """Only these are drawn; empty: all."""
    forced_eos_token_ids: list[TokenId] = []
    """The token at max_tokens is one of these."""
    decay_start: Natural = 0
    decay_factor: AboveZero = 1.0
    """A stop token's score s grows by |s| (decay_factor^n - 1) for the n-th token after `decay_start` emitted ones."""
    remove_invalid_values: bool = False
    """NaN counts as 0, an infinite logit as a very large or small one."""
    suppress_tokens: list[TokenId] = []
    begin_suppress_tokens: list[TokenId] = []
    """Not drawn as the first emitted token."""
    top_h: Share = 0.0
    """0 is off, as of all that follow: they narrow what a temperature above 0 draws from."""
    typical_p: Share = 1.0
    """1 is off."""
    epsilon_cutoff: Share = 0.0
    eta_cutoff: Share = 0.0

    @property
    def follows_text(self) -> bool:
        """Whether some rule depends on which tokens came just before."""
        return (
            self.no_repeat_ngram_size > 0
            or any(len(word) > 1 for word in self.bad_words)
            or any(len(one.token_ids) > 1 for one in self.sequence_bias)
        )


class Params(NamedTuple):
    """One sequence's limits and sampling. The order of processors is that of docs/architecture.md, "Sampling"."""

    max_tokens: Natural
    """Emitted tokens at the most, counted over all attempts."""
    min_tokens: Natural = 0
    """Until so many are emitted, `stop_token_ids` are masked."""
    temperature: NotNegative = 1.0
    """0 is greedy."""
    top_k: Natural = 0
    """0 is off."""
    top_p: Share = 1.0
    min_p: Share = 0.0
    repetition_penalty: AboveZero = 1.0
    """Over prompt and emitted tokens (CTRL, arXiv:1909.05858)."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    """These two over emitted tokens only, as OpenAI defines them."""
    seed: Seed = 0
    """u64; the front draws one where the request names none, so that every stream can be resumed."""
    logit_bias: dict[TokenId, float] = {}
    stop_token_ids: list[TokenId] = []
    """End-of-sequence ids included, unless the request said ignore_eos. The id that stops is emitted as the last."""
    logprobs: NumTop = -1
    """-1: none; 0: of the chosen token; k: and of the k likeliest (at most 20). Of unprocessed logits, as OpenAI."""
    cache_salt: str = ""
    """Part of the prefix chain's root: only requests with the same salt share cached blocks."""
    grammar: Grammar | None = None
    """Only tokens that it allows are drawn, and `stop_token_ids` only where it may end: from `min_tokens` on, or where
    nothing else can follow. Where it has ended and no stop token may say so, the stream ends with `stop` and no token.
    """
    prompt_logprobs: NumTop = -1
    """-1: none; 0: of each prompt token but the first, given those before it; k: and of the k likeliest there. Told
    before the first token, once: an attempt that resumes after emitted tokens tells none."""
    score_ids: list[TokenId] = []
    """Of a job of kind score: the tokens whose logprobs after the prompt are wanted."""
    processors: Processors | None = None
    """None, for nearly all, costs nothing."""
