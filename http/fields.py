"""What becomes of every field of a request body: honoured, accepted without effect, or refused by name.

CHAT and COMPLETIONS are the whole truth: a test compares them with the openai SDK's own types. A field is *harmless*
when leaving it aside cannot change the answer's text; whatever could, and is not done, is refused. Fields that are in
no table are let through: clients send all kinds of notes. `null` means absent everywhere.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from tokenyard.http.checks import (
    MAX_CHOICES,
    Check,
    array,
    boolean,
    described,
    instance,
    integer,
    logit_bias,
    mapping,
    number,
    some_token_ids,
    stop_strings,
    string,
    token_ids,
)
from tokenyard.http.errors import invalid
from tokenyard.http.generation_config import read_config
from tokenyard.http.grammars import choice, ebnf, json_schema, regex, response_format, structured_outputs
from tokenyard.http.reasoning import effort, reasoning, thinking
from tokenyard.http.shapes import MESSAGE, TOOL, TOOL_CHOICE, read_elsewhere

MAX_BAD_WORDS = 512
"""Each costs two calls of the tokenizer."""
MAX_MESSAGES = 4096
"""Twice OpenAI's limit."""
MAX_TOOLS = 512
"""Four times OpenAI's limit: here the client often is an agent with many servers' tools."""
MAX_TOP_LOGPROBS = 20
"""OpenAI's limit; the worker's too (broker/params.py)."""
INT64 = 1 << 63


class Field(NamedTuple):
    """One field's fate; exactly one of the three."""

    honoured: Check | None = None
    refused: Callable[[Any], bool] | None = None
    """Whether this value would change the answer; other values are let through."""
    why: str = ""
    means: str = ""
    """The honoured field that this is another name of."""
    neutral: tuple[Any, ...] = ()
    """Of a refused field, the values that are let through."""

    @property
    def harmless(self) -> bool:
        return self.honoured is None and self.refused is None


HARMLESS = Field()


def refused_unless(*neutral: Any, why: str = "is not supported here") -> Field:
    """Refused, except for the values that ask for nothing."""
    return Field(refused=lambda value: value not in neutral, why=why, neutral=neutral)


def read(body: dict[str, Any], table: dict[str, Field], *required: str) -> dict[str, Any]:
    """The honoured fields of `body` that are present, checked. Raises TokenyardError naming the first bad field.

    `required`: those that must be there.
    """
    values: dict[str, Any] = {}
    for name, value in body.items():
        field = table.get(name, HARMLESS)
        if value is None or field.harmless:
            continue
        if field.honoured is not None:
            checked = field.honoured(value, name)
            meant = field.means or name
            if values.setdefault(meant, checked) != checked:
                invalid(name, f"and its other name say different things: send one; it means {meant}")
        elif field.refused is not None and field.refused(value):
            invalid(name, field.why)
    for name in required:
        if name not in values:
            invalid(name, "is required")
    return values


_PENALTY = number(-2, 2)

SAMPLING: dict[str, Field] = {
    "temperature": Field(number(0, 2)),
    "top_p": Field(number(0, 1, above=True)),
    "top_k": Field(integer(-1, INT64)),
    "min_p": Field(number(0, 1)),
    "presence_penalty": Field(_PENALTY),
    "frequency_penalty": Field(_PENALTY),
    # 0 would divide logits by zero, 10 flattens any distribution: vLLM sets no upper end, transformers neither.
    "repetition_penalty": Field(number(0, 10, above=True)),
    "seed": Field(integer(-INT64, INT64 - 1)),
    "logit_bias": Field(logit_bias),
    "min_tokens": Field(integer(0, INT64)),
    "ignore_eos": Field(boolean),
    "stop_token_ids": Field(token_ids),
    "bad_words": Field(array(string(1, 256), high=MAX_BAD_WORDS)),
    "allowed_token_ids": Field(some_token_ids),
    # llama.cpp's and TGI's
    "typical_p": Field(number(0, 1, above=True)),
    "generation_config": Field(read_config),
}
"""OpenAI's fields that reach the sampler, and other servers' names for those that OpenAI lacks: vLLM's, mostly."""

GRAMMARS: dict[str, Field] = {
    "response_format": Field(response_format),
    "structured_outputs": Field(structured_outputs),
    "guided_json": Field(json_schema),
    "guided_regex": Field(regex),
    "guided_choice": Field(choice),
    "guided_grammar": Field(ebnf),
}
"""The form of the answer: at most one of them. OpenAI's, vLLM's, and vLLM's older names."""

COMMON: dict[str, Field] = {
    **SAMPLING,
    **GRAMMARS,
    "model": Field(string(1, 512)),
    "max_tokens": Field(integer(1, INT64)),
    "n": Field(integer(1, MAX_CHOICES)),
    "stop": Field(stop_strings),
    "stream": Field(boolean),
    "stream_options": Field(
        mapping({"include_usage": boolean, "continuous_usage_stats": boolean, "include_mcp": boolean})
    ),
    "skip_special_tokens": Field(boolean),
    "include_stop_str_in_output": Field(boolean),
    "return_token_ids": Field(boolean),
    "cache_salt": Field(string(1, 256)),
    "priority": Field(integer(-(1 << 31), (1 << 31) - 1)),
    # Jan's and llama.cpp's names
    "repeat_penalty": Field(number(0, 10, above=True), means="repetition_penalty"),
    "typ_p": Field(number(0, 1, above=True), means="typical_p"),
    "max_output_tokens": Field(integer(1, INT64), means="max_tokens"),
    "stop_sequences": Field(stop_strings, means="stop"),
    "ctx_len": HARMLESS,  # how much of a conversation the client sends
    "mirostat": refused_unless(0),
    "dynatemp_range": refused_unless(0),
    "xtc_probability": refused_unless(0),
    "dry_multiplier": refused_unless(0),
    "top_n_sigma": refused_unless(-1, 0),
    "n_predict": refused_unless(-1, why="is not supported: send max_tokens"),
    # llama.cpp's and SGLang's names of grammars
    "grammar": refused_unless("", why="is not supported: send structured_outputs.grammar"),
    "ebnf": refused_unless(why="is not supported: send structured_outputs.grammar"),
    "json_schema": refused_unless(why="is not supported: send response_format or structured_outputs.json"),
    "regex": refused_unless(why="is not supported: send structured_outputs.regex"),
    # Notes for the provider; none of them touches the text.
    "user": HARMLESS,
    "metadata": HARMLESS,
    "store": HARMLESS,
    "service_tier": HARMLESS,
    "safety_identifier": HARMLESS,
    "prompt_cache_key": HARMLESS,
    "prompt_cache_options": HARMLESS,
    "prompt_cache_retention": HARMLESS,
    # What other servers call extensions and we do not do.
    "use_beam_search": refused_unless(False),
    "length_penalty": refused_unless(1, 1.0),
    "early_stopping": refused_unless(False),
    "logits_processors": refused_unless([]),
    "prompt_logprobs": Field(integer(0, MAX_TOP_LOGPROBS)),
    "truncate_prompt_tokens": Field(integer(-1, INT64)),
    "return_tokens_as_token_ids": Field(boolean),
    "spaces_between_special_tokens": refused_unless(True),
    "guided_whitespace_pattern": refused_unless(),
}

CHAT: dict[str, Field] = {
    **COMMON,
    "messages": Field(array(read_elsewhere(MESSAGE), 1, MAX_MESSAGES)),
    "max_completion_tokens": Field(integer(1, INT64)),
    "logprobs": Field(boolean),
    "top_logprobs": Field(integer(0, MAX_TOP_LOGPROBS)),
    "tools": Field(array(read_elsewhere(TOOL), high=MAX_TOOLS)),
    "tool_choice": Field(read_elsewhere(TOOL_CHOICE)),
    "parallel_tool_calls": Field(boolean),
    "reasoning_effort": Field(effort),
    "enable_thinking": Field(boolean),
    "thinking": Field(thinking),
    "reasoning": Field(reasoning),
    "include_reasoning": Field(boolean),
    "thinking_token_budget": refused_unless(),
    "thinking_budget": refused_unless(),
    "chat_template_kwargs": Field(instance(dict, words="an object")),
    "continue_final_message": Field(boolean),
    "add_generation_prompt": Field(boolean),
    "modalities": refused_unless(["text"], why="supports only ['text']"),
    "verbosity": refused_unless("medium"),
    "functions": refused_unless([], why="is deprecated and not supported; use tools"),
    "function_call": refused_unless("none", why="is deprecated and not supported; use tool_choice"),
    "audio": refused_unless(),
    "prediction": refused_unless(),
    "web_search_options": refused_unless(),
    "moderation": refused_unless(),
    "chat_template": refused_unless(why="is not taken from requests; the model's own template is used"),
    "documents": refused_unless([]),
    "echo": refused_unless(False),
    "add_special_tokens": refused_unless(False, why="is not supported: the model's template has them"),
}

_text_or_list = instance(str, list, words="a string, a list of strings, or a list of token ids or of such lists")


@described(_text_or_list.schema)
def _prompt(value: Any, param: str) -> Any:
    """Of a list, only how many prompts it can be: what they are is checked where the model is known."""
    _text_or_list(value, param)
    if type(value) is list and len(value) > MAX_CHOICES and type(value[0]) is not int:
        invalid(param, f"must have at most {MAX_CHOICES} prompts, not {len(value)}")
    return value


COMPLETIONS: dict[str, Field] = {
    **COMMON,
    "prompt": Field(_prompt),
    "logprobs": Field(integer(0, MAX_TOP_LOGPROBS)),
    "best_of": Field(integer(1, MAX_CHOICES)),
    "add_special_tokens": Field(boolean),
    "max_tokens": Field(integer(0, INT64)),
    "echo": Field(boolean),
    "suffix": Field(string(0, 1 << 24)),
}
