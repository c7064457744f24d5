"""Typed questions with a closed set of answers, and what the probabilities of those say.

The types, the words of refusals and the arithmetic are those of transformers' decision pipeline (Apache-2.0), whose
module cannot be imported here: it brings torch. A test holds one against the other. Knows no tokenizer.
"""

import string
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers.decision.configuration_utils import DecisionConfig

Content = str | dict | list  # type: ignore[type-arg]  # as its checker wants it


@strict
@dataclass
class NoulQuestion:
    """{"type": "noul", "instructions": "Is this message spam?", "criteria": {"true": "Unsolicited ads", "false": "A real conversation"}}"""  # noqa: E501 - users see it

    type: Literal["noul"] = "noul"
    instructions: Content | None = None
    criteria: dict[Literal["true", "false"], Content | None] | None = None


@strict
@dataclass
class ChoiceQuestion:
    """{"type": "choice", "instructions": "What is the tone?", "criteria": {"calm": "A polite message", "angry": null}}"""  # noqa: E501

    criteria: dict[str, Content | None]
    type: Literal["choice"] = "choice"
    instructions: Content | None = None


@strict
@dataclass
class ScoreQuestion:
    """{"type": "score", "instructions": "How urgent is it?", "criteria": ["Can wait", "This week", "Today"]}"""

    criteria: list[Content]
    type: Literal["score"] = "score"
    instructions: Content | None = None


SCHEMAS: dict[str, Any] = {"noul": NoulQuestion, "choice": ChoiceQuestion, "score": ScoreQuestion}


class Question(NamedTuple):
    """One question as templates see it."""

    name: str
    type: str
    """noul (yes or no), choice or score."""
    instructions: Any
    options: list[str]
    """The answers there can be, in the template's order; of a score, the numbers of its levels from 0."""
    labels: list[str]
    """What the model answers with, one token for each option."""
    descriptions: list[Any]
    """Of each option; None where it says all."""


def parse_questions(questions: dict[str, Any], config: DecisionConfig) -> list[Question]:
    """Raises ValueError that tells of every question at fault, each with an example of a valid one."""
    parsed, errors = [], []
    for name, question in questions.items():
        try:
            parsed.append(_parse(name, question, config))
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ValueError("\n".join(errors))
    return parsed


def _parse(name: str, given: Any, config: DecisionConfig) -> Question:
    kind = given.get("type") if isinstance(given, dict) else None
    if kind not in SCHEMAS:
        got = kind if isinstance(given, dict) else given
        raise ValueError(f"Question {name!r}: `type` must be one of {', '.join(SCHEMAS)}, got {got!r}.")
    schema = SCHEMAS[kind]
    try:
        question = asdict(schema(**given))
    except (TypeError, StrictDataclassError) as error:
        example = f"(a {kind} question looks like {schema.__doc__})"
        raise ValueError(f"Question {name!r}: {error} {example}") from error
    criteria = question["criteria"]
    if kind != "noul" and not criteria:
        raise ValueError(f"Question {name!r}: a {kind} question needs `criteria` with its options.")
    if kind == "noul":
        criteria = {option: (criteria or {}).get(option) for option in config.noul_options}
    elif kind == "score":
        criteria = {str(index): level for index, level in enumerate(criteria)}
    labels = labels_of(kind, config)
    if len(labels) < len(criteria):
        raise ValueError(
            f"Question {name!r}: this model reads at most {len(labels)} options for a {kind} question, got "
            f"{len(criteria)} (`labels.{kind}` in its decision config)."
        )
    options, descriptions = list(criteria), list(criteria.values())
    return Question(name, kind, question["instructions"], options, labels[: len(options)], descriptions)


def labels_of(kind: str, config: DecisionConfig) -> list[str]:
    """What a model answers questions of this type with."""
    return config.labels.get(kind) or (["Yes", "No"] if kind == "noul" else list(string.ascii_uppercase))


def choice_confidence(probabilities: list[float]) -> float:
    """How far the likeliest is above chance: 0 where all are alike, 1 where it is certain."""
    count = len(probabilities)
    return 1.0 if count == 1 else max(0.0, (max(probabilities) - 1 / count) / (1 - 1 / count))


def score_confidence(probabilities: list[float]) -> float:
    """How near to the likeliest level all of it lies: 1 where it is certain, 0 where it is as far as chance."""
    count = len(probabilities)
    if count == 1:
        return 1.0
    best = probabilities.index(max(probabilities))
    distance = sum(probability * abs(level - best) for level, probability in enumerate(probabilities))
    chance = sum(abs(level - (count - 1) / 2) for level in range(count)) / count
    return max(0.0, 1 - distance / chance)


def mean_level(probabilities: list[float]) -> float:
    """The score: levels from 0, each as far as it is likely."""
    return sum(level * probability for level, probability in enumerate(probabilities))
