"""From typed questions about something to prompts whose next token is the answer, as one model wants them.

The prompts are those of transformers' decision pipeline, ids and all. Each question's ends where its answer is read;
what comes before is the same for all, so that one prefill of it serves them. Knows no sockets and no API's shapes.
"""

import asyncio
import itertools
import json
import string
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from transformers import AddedToken, PreTrainedTokenizerFast
from transformers.decision.configuration_utils import DecisionConfig
from transformers.utils.chat_template_utils import _compile_jinja_template, _get_template_variables

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import Card
from tokenyard.http.decisions.questions import Question, labels_of
from tokenyard.http.library import TEMPLATE_FAILURES, load_tokenizer
from tokenyard.http.sampling import too_long, usable_tokens

MARK, SPLIT = "<|mark|>", "<|split|>"
"""What decision templates write where an answer is read, and where texts must not join; neither reaches the model."""

PROMPT = """
{%- macro text(x) %}{{ "" if x is none else x if x is string else x|tojson }}{% endmacro -%}
{%- set ns = namespace(lines=[text(question.instructions)]) -%}
{%- for option in question.options -%}
    {%- set label, answer = question.labels[loop.index0], text(question.descriptions[loop.index0]) -%}
    {%- if question.type == "noul" -%}
        {%- set answer = answer or (option if question.labels != ["Yes", "No"] else "") -%}
        {%- set ns.lines = ns.lines + ([label ~ ": " ~ answer] if answer else []) -%}
    {%- else -%}
        {%- set answer = (option ~ ": " ~ answer if answer else option) if question.type == "choice" else answer -%}
        {%- set ns.lines = ns.lines + [label ~ ". " ~ answer] -%}
    {%- endif -%}
{%- endfor -%}
{{- text(state) ~ "\\n\\n" ~ ns.lines|select|join("\\n") ~ "\\n" -}}
{%- if question.type == "noul" -%}
    {{- "Answer " ~ question.labels[0] ~ " or " ~ question.labels[1] ~ " only." -}}
{%- else -%}
    {%- set kind = "letter" if question.labels == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: question.labels|length]|list else "label" -%}
    {{- "Answer with the " ~ kind ~ " of the " ~ ("option" if question.type == "choice" else "level") -}}
    {{- " that fits best (" ~ question.labels[0] ~ " to " ~ question.labels[-1] ~ ") only." -}}
{%- endif -%}
"""  # noqa: E501 - to the letter transformers' DECISION_PROMPT, as a test asserts
"""The user's message to a model that brings no template of its own."""

MAX_READERS = 4
"""Kept, those of the models that were asked last: each has a tokenizer of its own (library.MAX_OTHERS)."""


class Asked(NamedTuple):
    """One question, ready for the model."""

    question: Question
    ids: list[int]
    """The prompt; the answer is its next token."""
    label_ids: list[int]
    """One an option."""
    temperature: float


class Reader:
    """One model's. Its tokenizer is its own: to encode control tokens as text, transformers changes its settings."""

    def __init__(self, card: Card, tokenizer: PreTrainedTokenizerFast, config: DecisionConfig) -> None:
        self.config = config
        self._card = card
        self._tokenizer = tokenizer
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in (MARK, SPLIT)])
        self._mark_id, self._split_id = (tokenizer.convert_tokens_to_ids(token) for token in (MARK, SPLIT))
        self._variables = _get_template_variables(config.chat_template or PROMPT)
        self._thread = ThreadPoolExecutor(1, "decisions")
        self._labels: dict[tuple[str, ...], list[int]] = {}

    async def read(self, state: Any, questions: list[Question], param: str) -> list[Asked]:
        """In the order of `questions`. Raises TokenyardError naming `param` where the state is too long."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, state, questions, param)

    def labels(self, kind: str, count: int) -> list[str]:
        """So many labels, or all there are if those are fewer: letters, then pairs of them that are one token."""
        labels = labels_of(kind, self.config)
        if len(labels) < count and kind not in self.config.labels:
            pairs = map("".join, itertools.product(string.ascii_uppercase, repeat=2))
            labels = [*labels, *itertools.islice(filter(self._is_token, pairs), count - len(labels))]
        return labels[:count]

    def _read(self, state: Any, questions: list[Question], param: str) -> list[Asked]:
        if self.config.adapter:
            raise TokenyardError(
                "invalid_value", "this model's decisions need its adapter, which is not served", "model"
            )
        together = "questions" in self._variables
        asked: list[Asked] = []
        for group in [questions] if together else [[question] for question in questions]:
            prompts = self._prompts(state, group)
            for question, ids in zip(group, prompts, strict=True):
                if len(ids) > usable_tokens(self._card):
                    raise too_long(self._card, str(len(ids)), param)
                temperature = float(self.config.temperature.get(question.type, 1.0))
                asked.append(Asked(question, ids, self._label_ids(question.labels), temperature))
        return asked

    def _prompts(self, state: Any, group: list[Question]) -> list[list[int]]:
        """Ids up to where the answer to each question of one rendered prompt is read."""
        try:
            ids = self._encode(state, group)
        except TEMPLATE_FAILURES as error:
            words = f"the model's template refuses this question: {error}"
            raise TokenyardError("invalid_value", words, "questions") from error
        prompt: list[int] = []
        marks: list[int] = []
        for token_id in ids:
            if token_id == self._mark_id:
                marks.append(len(prompt))
            elif token_id != self._split_id:
                prompt.append(token_id)
        marks = marks or [len(prompt)]
        if len(marks) < len(group) or not marks[0]:
            raise TokenyardError("invalid_value", "the model's decision template marks no place to read", "model")
        return [prompt[:mark] for mark in marks[: len(group)]]

    def _encode(self, state: Any, group: list[Question]) -> list[int]:
        """Ids of one rendered prompt, marks and splits among them."""
        given: dict[str, Any] = {}
        values: dict[str, Any] = {"state": state, "questions": [one._asdict() for one in group]}
        if not self.config.sanitize_control_tokens:  # the template sees to control tokens, but not to these
            values = json.loads(json.dumps(values, ensure_ascii=False).replace(MARK, "").replace(SPLIT, ""))
        values["question"] = values["questions"][0]
        if self.config.chat_template is None:
            content = _compile_jinja_template(PROMPT).render(values)
        else:
            content = ""
            given = {name: value for name, value in values.items() if name in self._variables}
            given["chat_template"] = self.config.chat_template
        encoded: Any = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            sanitize_control_tokens=self.config.sanitize_control_tokens,
            tokenize=True,
            return_dict=True,
            enable_thinking=False,
            **given,
        )
        ids: list[int] = encoded["input_ids"]
        return ids

    def _label_ids(self, labels: list[str]) -> list[int]:
        key = tuple(labels)
        if key not in self._labels:
            ids = [self._tokenizer.encode(label, add_special_tokens=False) for label in labels]
            known = {one[0] for one in ids if len(one) == 1 and one[0] != self._tokenizer.unk_token_id}
            if len(known) != len(labels):
                words = f"the labels {labels} are not distinct single tokens for this model"
                raise TokenyardError("invalid_value", words, "questions")
            self._labels[key] = [one[0] for one in ids]
        return self._labels[key]

    def _is_token(self, label: str) -> bool:
        ids = self._tokenizer.encode(label, add_special_tokens=False)
        return len(ids) == 1 and ids[0] != self._tokenizer.unk_token_id


class Readers:
    """Of the models that were asked last; all calls on the event loop's thread."""

    def __init__(self) -> None:
        self._loads: dict[tuple[str, str, str], asyncio.Task[Reader]] = {}
        """By source, commit and GGUF file; the last used at the end."""

    async def get(self, card: Card) -> Reader:
        """Raises TokenyardError if the model's files cannot be read."""
        key = (card.source, card.commit, card.file)
        load = self._loads.pop(key, None)
        if load is None or (load.done() and load.exception() is not None):
            load = asyncio.create_task(asyncio.to_thread(_load, card))
        self._loads[key] = load
        for other in list(self._loads)[:-MAX_READERS]:
            del self._loads[other]
        return await asyncio.shield(load)


def _load(card: Card) -> Reader:
    try:
        # Offline, a model without these files is one without: whatever had them has them cached.
        config = DecisionConfig.from_pretrained(
            card.source, revision=card.commit, _raise_exceptions_for_connection_errors=False
        )
        return Reader(card, load_tokenizer(card), config)
    except (OSError, ValueError, TypeError) as error:
        raise TokenyardError("worker_error", f"{card.names[0]}: its decision settings cannot be read") from error
