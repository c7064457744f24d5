"""Reasoning that a model writes before its answer, between two marks: which marks, and whether the prompt opened it."""

from typing import NamedTuple

from tokenyard.http.formats.reading import Reading
from tokenyard.http.formats.source import Steps, Trimmed


class Marks(NamedTuple):
    """What stands before and after a thought."""

    opening: str
    closing: str


THOUGHT_MARKS = (
    Marks("<think>", "</think>"),
    Marks("[THINK]", "[/THINK]"),  # Magistral
    Marks("<|channel>thought\n", "<channel|>"),  # Gemma 4
)


def thought_marks(template: str) -> Marks | None:
    """The marks that a chat template knows."""
    return next((marks for marks in THOUGHT_MARKS if marks.opening.strip() in template), None)


def unfinished(prompt: str, continued: str, marks: Marks) -> str:
    """The opening mark, if the prompt's end opened a thought: its template did, or the text that is to be continued.

    Marks further up, in what a user wrote, open none.
    """
    if continued:
        opened = continued.rfind(marks.opening) > continued.rfind(marks.closing)
    else:
        opened = prompt.rstrip().endswith(marks.opening.rstrip())
    return marks.opening if opened else ""


def read_thought(reading: Reading, marks: Marks) -> Steps[None]:
    """The thought at the beginning, if there is one."""
    yield from reading.space()
    if not (yield from reading.take(marks.opening)):
        return
    reading.drop()
    reading.thinking = True
    yield from reading.copy_until((marks.closing,), Trimmed(reading.think))
    reading.thinking = False
    yield from reading.space()
    reading.drop()
