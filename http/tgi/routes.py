"""POST /generate, /generate_stream and /, GET /info: text-generation-inference's API, for its clients."""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from tokenyard.broker.wire import Card
from tokenyard.http import embeddings
from tokenyard.http.bodies import read_body
from tokenyard.http.checks import MAX_STOPS, boolean
from tokenyard.http.completions import plan_completion
from tokenyard.http.errors import SHAPES, invalid
from tokenyard.http.fields import Field, read, refused_unless
from tokenyard.http.generation import Generation
from tokenyard.http.prompt import Prompter
from tokenyard.http.replies import WholeReply
from tokenyard.http.service import Service
from tokenyard.http.tgi.answer import TgiFormat, error_body, failure
from tokenyard.http.tgi.fields import BODY, TgiRequest, parse

EMBED: dict[str, Field] = {
    **BODY,
    "inputs": embeddings.EMBEDDINGS["input"],
    "parameters": refused_unless({}),
    "truncate": Field(boolean),
    "truncation_direction": refused_unless("right", "Right"),
    "normalize": refused_unless(why="is not taken: a model's own files say whether its vectors have length 1"),
    "prompt_name": refused_unless(why="is not supported: put the prompt before the text"),
    "dimensions": embeddings.EMBEDDINGS["dimensions"],
    "encoding_format": refused_unless("float", why="must be 'float': /v1/embeddings has others"),
}
"""What huggingface_hub's feature_extraction sends: a test compares the two."""


def add_routes(api: FastAPI, service: Service) -> None:
    SHAPES["/generate"] = SHAPES["/"] = error_body

    async def answer(http: Request, stream: bool | None, in_list: bool) -> Response:
        body = await read_body(http, dict)
        streams = body.get("stream") is True if stream is None else stream
        name = _name(service, body)
        # Lists are for encoders, and which model is one shows once it is up; nobody should wait to be refused.
        request = None if isinstance(body.get("inputs"), list) else parse(body, name, stream)

        async def work(prompter: Prompter) -> Response:
            card = prompter.card
            if card.lane != "encoder":
                return await _generate(service, request or parse(body, name, stream), prompter, in_list)
            if streams:
                invalid("stream", f"must be false: {card.names[0]} gives vectors")
            return await _embed(service, body, prompter)

        return await service.answer(name, work, failure if streams else None)

    @api.post("/generate")
    async def generate(http: Request) -> Response:
        return await answer(http, False, False)

    @api.post("/generate_stream")
    async def generate_stream(http: Request) -> Response:
        return await answer(http, True, False)

    @api.post("/")
    async def compatible(http: Request) -> Response:
        return await answer(http, None, True)

    @api.get("/info")
    async def info() -> Response:
        return JSONResponse(_info(service.models.only_card()))


async def _generate(service: Service, request: TgiRequest, prompter: Prompter, in_list: bool) -> Response:
    plan = await plan_completion(request, prompter)
    generation = Generation(service.pool, plan.plans)
    form = TgiFormat(request, generation, prompter.loaded, plan.echoes, in_list)
    return service.reply(generation, form, request.stream)


async def _embed(service: Service, body: dict[str, Any], prompter: Prompter) -> Response:
    """Feature extraction, as Hugging Face's clients ask for it: a vector a text, and nothing else."""
    card = prompter.card
    wanted = read(body, EMBED, "inputs")
    asked = {"model": card.names[0], "input": wanted["inputs"], "dimensions": wanted.get("dimensions")}
    request = embeddings.parse({**asked, "truncate_prompt_tokens": -1 if wanted.get("truncate") else 0})
    texts = await embeddings.tokenize(request, prompter)
    plans = embeddings.make_plans(texts, card, prompter.loaded, 0)
    generation = Generation(service.pool, plans, embeddings.WIDTH)
    return WholeReply(generation, _Vectors(embeddings.EmbeddingFormat(request, generation)))


class _Vectors:
    """Shapes the answer to a feature extraction."""

    def __init__(self, form: embeddings.EmbeddingFormat) -> None:
        self._form = form

    def whole(self, pieces: Any) -> Any:
        return [one["embedding"] for one in self._form.whole(pieces)["data"]]


def _name(service: Service, body: dict[str, Any]) -> str:
    """The model that is meant: the only one, or the one named. Raises TokenyardError."""
    name = body.get("model")
    if name is None:
        return service.models.only_card().names[0]
    if not isinstance(name, str):
        invalid("model", "must be a string")
    return name


def _info(card: Card) -> dict[str, Any]:
    """TGI's GET /info, as far as it has a meaning here."""
    return {
        "model_id": card.names[0],
        "model_sha": card.commit,
        "model_dtype": card.dtype,
        "model_device_type": card.device.partition(":")[0],
        "model_pipeline_tag": "feature-extraction" if card.lane == "encoder" else "text-generation",
        "max_input_tokens": card.context_length - 1,
        "max_total_tokens": card.context_length,
        "max_best_of": 1,
        "max_stop_sequences": MAX_STOPS,
        "router": "tokenyard",
        "version": version("tokenyard"),
    }
