"""POST /v1/decisions: typed decisions in OpenAI's request and answer shapes; and the routes of both APIs of them."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from tokenyard.http.bodies import read_body
from tokenyard.http.decisions import systemone
from tokenyard.http.decisions.fields import DECISIONS
from tokenyard.http.decisions.inputs import read_question, read_state
from tokenyard.http.decisions.questions import choice_confidence, mean_level, score_confidence
from tokenyard.http.decisions.reader import Readers
from tokenyard.http.decisions.verdicts import Verdicts
from tokenyard.http.fields import read
from tokenyard.http.prompt import Prompter
from tokenyard.http.replies import WholeReply
from tokenyard.http.service import Service


def add_routes(api: FastAPI, service: Service) -> None:
    readers = Readers()
    systemone.add_routes(api, service, readers)

    @api.post("/v1/decisions")
    async def decisions(http: Request) -> Response:
        request = await read_body(http, lambda body: read(body, DECISIONS, "model", "input", "questions"))

        async def work(prompter: Prompter) -> Response:
            state = read_state(request["input"])
            reader = await readers.get(prompter.card)
            questions = [read_question(one, f"questions.{at}", reader) for at, one in enumerate(request["questions"])]
            asked = await reader.read(state, questions, "input")
            verdicts = Verdicts(service.pool, prompter.card, prompter.loaded, asked)
            return WholeReply(verdicts.generation, DecisionFormat(request, verdicts))

        return await service.answer(request["model"], work)


class DecisionFormat:
    """Shapes one answer."""

    def __init__(self, request: dict[str, Any], verdicts: Verdicts) -> None:
        self._request = request
        self._verdicts = verdicts

    def whole(self, _: Any) -> dict[str, Any]:
        verdicts = self._verdicts
        answers = [
            {"name": question.get("name"), **shape(question, probabilities, asked.question.options)}
            for question, probabilities, asked in zip(
                self._request["questions"], verdicts.probabilities, verdicts.asked, strict=True
            )
        ]
        usage = {
            "input_tokens": verdicts.num_tokens,
            "input_tokens_details": {
                "cached_tokens": verdicts.num_cached,
                "cache_write_tokens": verdicts.num_tokens - verdicts.num_cached,
            },
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": verdicts.num_tokens,
        }
        return {"answers": answers, "model": self._request["model"], "usage": usage}


def shape(question: dict[str, Any], probabilities: list[float], options: list[str]) -> dict[str, Any]:
    """One answer to a question as it was asked. A model that declines does so in probabilities: none is a refusal."""
    if question["type"] == "predicate":
        return {"type": "predicate", "probability": probabilities[options.index("true")]}
    if question["type"] == "choice":
        values = [choice["value"] for choice in question["choices"]]
        return {
            "type": "choice",
            "choice": values[probabilities.index(max(probabilities))],
            "confidence": choice_confidence(probabilities),
            "probabilities": [
                {"value": value, "probability": one} for value, one in zip(values, probabilities, strict=True)
            ],
        }
    return {
        "type": "score",
        "score": mean_level(probabilities),
        "confidence": score_confidence(probabilities),
        "probabilities": [
            {"label": level["label"], "value": value, "probability": one}
            for value, (level, one) in enumerate(zip(question["levels"], probabilities, strict=True))
        ],
    }
