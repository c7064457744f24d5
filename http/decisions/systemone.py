"""POST /v1/systemone: typed decisions in the request and answer shapes of Jev, as `transformers serve` has them."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers.decision.configuration_utils import DecisionConfig

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.bodies import read_body
from tokenyard.http.decisions.questions import (
    Question,
    choice_confidence,
    mean_level,
    parse_questions,
    score_confidence,
)
from tokenyard.http.decisions.reader import Readers
from tokenyard.http.decisions.verdicts import Verdicts
from tokenyard.http.errors import SHAPES, Failure, HttpError
from tokenyard.http.prompt import Prompter
from tokenyard.http.replies import WholeReply
from tokenyard.http.service import Service

PATH = "/v1/systemone"


class SystemOneRequest(BaseModel):
    """As transformers' (5.24), so that refusals are the same."""

    model_config = ConfigDict(extra="forbid")

    model: str
    state: str | dict[str, Any] | list[Any]
    questions: dict[str, dict[str, Any]] = Field(min_length=1, max_length=64)
    assets: dict[str, dict[str, Any]] = Field(default_factory=dict, max_length=4)


class Unprocessable(HttpError):
    """The request is not one: a 422 with FastAPI's list of what is wrong where."""

    def __init__(self, detail: list[dict[str, Any]]) -> None:
        super().__init__(422, "invalid_value", str(detail[0]["msg"]))
        self.detail = detail


def error_body(error: Failure) -> dict[str, Any]:
    return {"detail": error.detail if isinstance(error, Unprocessable) else error.words}


def add_routes(api: FastAPI, service: Service, readers: Readers) -> None:
    SHAPES[PATH] = error_body

    @api.post(PATH)
    async def systemone(http: Request) -> Response:
        try:
            body = await read_body(http, dict)
        except TokenyardError as error:
            raise Unprocessable([{"type": "json_invalid", "loc": ("body",), "msg": error.words}]) from error
        request = parse(body)

        async def work(prompter: Prompter) -> Response:
            if request.assets:
                words = "assets: images need a model whose processor handles them"
                raise TokenyardError("invalid_value", words, "assets")
            reader = await readers.get(prompter.card)
            try:
                questions = parse_questions(request.questions, reader.config)
            except ValueError as error:
                raise TokenyardError("invalid_value", str(error), "questions") from error
            asked = await reader.read(request.state, questions, "state")
            verdicts = Verdicts(service.pool, prompter.card, prompter.loaded, asked)
            return WholeReply(verdicts.generation, SystemOneFormat(request.model, verdicts))

        return await service.answer(request.model, work)


def parse(body: dict[str, Any]) -> SystemOneRequest:
    """Raises Unprocessable."""
    try:
        request = SystemOneRequest.model_validate(body, strict=True)
    except ValidationError as error:
        detail = [{**item, "loc": ("body", *item["loc"])} for item in error.errors(include_url=False)]
        raise Unprocessable(detail) from error
    try:
        parse_questions(request.questions, DecisionConfig())
    except ValueError as error:
        detail = [{"loc": ("body", "questions"), "msg": str(error), "type": "value_error"}]
        raise Unprocessable(detail) from error
    return request


class SystemOneFormat:
    """Shapes one answer."""

    def __init__(self, model: str, verdicts: Verdicts) -> None:
        self._model = model
        self._verdicts = verdicts

    def whole(self, _: Any) -> dict[str, Any]:
        verdicts = self._verdicts
        answers = {
            one.question.name: shape(one.question, probabilities)
            for one, probabilities in zip(verdicts.asked, verdicts.probabilities, strict=True)
        }
        usage = {"input_tokens": verdicts.num_tokens, "output_tokens": 0}
        return {"model": self._model, "answers": answers, "usage": usage}


def shape(question: Question, probabilities: list[float]) -> dict[str, Any]:
    """One answer."""
    by_option = dict(zip(question.options, probabilities, strict=True))
    if question.type == "noul":
        return {"type": "noul", "noul": by_option["true"]}
    if question.type == "choice":
        return {
            "type": "choice",
            "choice": max(by_option, key=lambda option: by_option[option]),
            "confidence": choice_confidence(probabilities),
            "probabilities": by_option,
        }
    return {
        "type": "score",
        "score": mean_level(probabilities),
        "legend": dict(zip(question.options, question.descriptions, strict=True)),
        "confidence": score_confidence(probabilities),
        "probabilities": by_option,
    }
