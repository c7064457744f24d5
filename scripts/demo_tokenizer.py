"""The demo model's tokenizer: how it splits text, how it is trained, how a chat becomes ids and a loss mask.

Rules of this file: it turns chats into tokens and knows neither how chats are drawn nor how the model learns. The one
trick: letters are split from spaces and punctuation, so that `Paris` is the same tokens in a sentence and in JSON and
can be copied; common function words keep their space, and the glue between a schema's names is one token.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tokenyard.scripts.demo_data import Chat

VOCAB_SIZE = 2048
MAX_LENGTH = 8192
"""Training sees shorter ones; agents' instructions alone take some 4,000 tokens of so small a vocabulary."""
END, PAD = "<|im_end|>", "<|endoftext|>"
SPECIAL = (PAD, "<|im_start|>", END)
# Not special, so that decoding keeps them for parsers of tool calls and reasoning.
MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
# The template's fixed words around the tools: one token each instead of some hundred.
PREAMBLE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function "
    "signatures within <tools></tools> XML tags:\n<tools>\n",
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call>"
    '</tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>',
)

GLUE = (
    '{"type": "function", "function": {"name": "', '.", "description": "', '", "description": "',
    '.", "parameters": {"type": "object", "properties": {"', '", "parameters": {"type": "object", "properties": {"',
    '.", "parameters": {"properties": {"', '", "parameters": {"properties": {"', '": {"type": "', '": {"title": "',
    '": {"default": "', '", "title": "', '", "type": "', '"}}, "required": ["', '"]}}, "required": ["', '", "enum": ["',
    '"], "title": "', '"], "additionalProperties": false}}}', 'Arguments", "type": "object"}}}', '"]}}}', '{"name": "',
    '", "arguments": {"', '"}, "',
)  # fmt: skip
SPACED = (
    "the a an is are was am I you me my it in of to and for from on by at do does with that have not can what how this "
    "your please no be"
).replace(" ", "|")


def split_pattern() -> str:
    """In order: glue, spaced function words, words, capitals, digits, lines, punctuation with one space, spaces."""
    glue = "|".join(re.escape(g) for g in sorted(GLUE, key=len, reverse=True))
    words = rf" (?:{SPACED})(?![\p{{L}}\p{{N}}_])|\p{{Lu}}?\p{{Ll}}+|\p{{Lu}}+(?!\p{{Ll}})|\p{{L}}+|\p{{N}}"
    return rf"{glue}|{words}|\n+|[^\p{{L}}\p{{N}}\s]+(?: +[^\p{{L}}\p{{N}}\s]+)* ?|\s+"


def train_tokenizer(texts: Iterable[str], template: str) -> PreTrainedTokenizerFast:
    added = (*SPECIAL, *MARKS, *PREAMBLE)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split_pattern()), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(added), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    marks = re.compile("|".join(re.escape(mark) for mark in sorted(added, key=len, reverse=True)))
    tokenizer.train_from_iterator((piece for text in texts for piece in marks.split(text) if piece), trainer)
    tokenizer.add_tokens([AddedToken(token, special=token in SPECIAL, normalized=False) for token in added])
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=MAX_LENGTH
    )
    fast.chat_template = template
    return fast


def render(chat: Chat, template: Any, generate: bool = False) -> str:
    """The chat as text, by a compiled template; with `generate`, up to the opening of the last answer."""
    messages = chat.messages[:-1] if generate else chat.messages
    text = template.render(
        messages=messages, tools=chat.tools or None, add_generation_prompt=generate, enable_thinking=chat.thinking
    )
    return str(text)


# What the model is to say: from after the opening (and an opening think mark, which the prompt holds) to the end.
ASSISTANT_SPAN = re.compile(r"<\|im_start\|>assistant\n(?:<think>\n)?(.*?<\|im_end\|>)", re.DOTALL)


def supervised_spans(text: str) -> list[tuple[int, int]]:
    return [match.span(1) for match in ASSISTANT_SPAN.finditer(text)]


def encode(text: str, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Token ids, and for each whether it is to be predicted."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    spans = iter(supervised_spans(text))
    start, end = next(spans, (len(text), len(text)))
    mask = []
    for low, high in encoding.offsets:
        while low >= end < len(text):
            start, end = next(spans, (len(text), len(text)))
        mask.append(start <= low and high <= end)
    return encoding.ids, mask


def encode_all(chats: Iterator[Chat], tokenizer: Tokenizer, template: Any) -> Iterator[tuple[list[int], list[bool]]]:
    for chat in chats:
        yield encode(render(chat, template), tokenizer)
