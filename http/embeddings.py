"""POST /v1/embeddings: texts, or their token ids, to vectors. One job a text, some of them at a time."""

import asyncio
import base64
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import Response

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import Params
from tokenyard.broker.wire import Card
from tokenyard.http.bodies import read_body
from tokenyard.http.checks import boolean, instance, integer, one_of, string
from tokenyard.http.choice import Choice
from tokenyard.http.detokenize import Detokenizer
from tokenyard.http.errors import invalid
from tokenyard.http.fields import HARMLESS, Field, read
from tokenyard.http.generation import Generation, Plan
from tokenyard.http.library import LoadedTokenizer
from tokenyard.http.pool import JobRequest
from tokenyard.http.prompt import Prompter
from tokenyard.http.replies import WholeReply
from tokenyard.http.service import Service
from tokenyard.http.stops import StopScanner

MAX_TEXTS = 2048
"""Of one request: OpenAI's limit."""
MAX_TOKENS = 300_000
"""Of all its texts: OpenAI's limit."""
WIDTH = 64
"""Texts of one request that the pool has at once: enough to fill steps, and room in the queue for others."""

EMBEDDINGS: dict[str, Field] = {
    "model": Field(string(1, 512)),
    "input": Field(instance(str, list, words="a string, a list of strings, or a list of token ids or of such lists")),
    "encoding_format": Field(one_of("float", "base64")),
    "dimensions": Field(integer(1, 1 << 20)),
    "truncate_prompt_tokens": Field(integer(-1, 1 << 30)),
    "add_special_tokens": Field(boolean),
    "priority": Field(integer(-(1 << 31), (1 << 31) - 1)),
    "user": HARMLESS,
}
"""OpenAI's fields, then vLLM's."""


def add_routes(api: FastAPI, service: Service) -> None:
    @api.post("/v1/embeddings")
    async def embeddings(http: Request) -> Response:
        request = await read_body(http, parse)

        async def work(prompter: Prompter) -> Response:
            texts = await tokenize(request, prompter)
            plans = make_plans(texts, prompter.card, prompter.loaded, request.get("priority", 0))
            generation = Generation(service.pool, plans, WIDTH)
            return WholeReply(generation, EmbeddingFormat(request, generation))

        return await service.answer(request["model"], work)


def parse(body: dict[str, Any]) -> dict[str, Any]:
    """The checked fields. Raises TokenyardError naming the first at fault."""
    values = read(body, EMBEDDINGS, "model", "input")
    given = values["input"]
    if not given:
        invalid("input", "must not be empty")
    if isinstance(given, str) or type(given[0]) is int:
        values["input"] = [given]
    elif len(given) > MAX_TEXTS:
        invalid("input", f"must have at most {MAX_TEXTS:,} items, not {len(given):,}")
    values["is_list"] = values["input"] is given
    return values


async def tokenize(request: dict[str, Any], prompter: Prompter) -> list[list[int]]:
    """The ids of each text. Raises TokenyardError naming the one at fault."""
    longest = prompter.card.context_length
    most = request.get("truncate_prompt_tokens", 0)
    most = longest if most == -1 else min(most, longest)
    special = request.get("add_special_tokens", True)
    texts = []
    for index, given in enumerate(request["input"]):
        param = f"input.{index}" if request["is_list"] else "input"
        ids = await prompter.of_input(given, param, special)
        if most:
            ids = _cut(ids, most, special and isinstance(given, str))
        if len(ids) > longest:
            words = f"{param} has {len(ids):,} tokens; this model takes at most {longest:,}"
            raise TokenyardError("context_length_exceeded", words, param)
        texts.append(ids)
        if index % WIDTH == WIDTH - 1:
            await asyncio.sleep(0)  # others' streams come first
    num_tokens = sum(map(len, texts))
    if num_tokens > MAX_TOKENS:
        invalid("input", f"has {num_tokens:,} tokens in all; one request may have {MAX_TOKENS:,}")
    return texts


def _cut(ids: list[int], most: int, marked: bool) -> list[int]:
    """The first so many ids; where the text's end is marked by a token of its own, that stays."""
    if len(ids) <= most:
        return ids
    return [*ids[: most - 1], ids[-1]] if marked else ids[:most]


def make_plans(texts: list[list[int]], card: Card, loaded: LoadedTokenizer, priority: int) -> list[Plan]:
    """One job a text."""
    return [
        Plan(
            Choice(index, Detokenizer(loaded.backend), StopScanner([])),
            JobRequest(card.names[0], ids, Params(max_tokens=1), priority=priority, kind="embed"),
            counts_prompt=True,
        )
        for index, ids in enumerate(texts)
    ]


class EmbeddingFormat:
    """Shapes the answer."""

    def __init__(self, request: dict[str, Any], generation: Generation) -> None:
        self._request = request
        self._generation = generation

    def whole(self, _: Any) -> dict[str, Any]:
        """Raises TokenyardError where the model's vectors have fewer dimensions than were asked for."""
        data = [
            {"object": "embedding", "index": choice.index, "embedding": self._shape(choice.embedding)}
            for choice in self._generation.choices
        ]
        num_tokens = self._generation.usage["prompt_tokens"]
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        return {"object": "list", "data": data, "model": self._request["model"], "usage": usage}

    def _shape(self, packed: bytes) -> list[float] | str:
        dimensions = self._request.get("dimensions")
        size = len(packed) // 4
        if dimensions is not None and dimensions > size:
            invalid("dimensions", f"must be at most {size}, as many as this model's vectors have")
        if dimensions is not None and dimensions < size:
            packed = shorten(packed, dimensions)
        if self._request.get("encoding_format") == "base64":
            return base64.b64encode(packed).decode()
        vector: list[float] = np.frombuffer(packed, "<f4").tolist()
        return vector


def shorten(packed: bytes, dimensions: int) -> bytes:
    """The first dimensions, at length 1 again, as OpenAI does it for models made so (Matryoshka, arXiv:2205.13147)."""
    vector = np.frombuffer(packed, "<f4")[:dimensions]
    norm = np.linalg.norm(vector)
    return (vector / norm if norm > 0 else vector).astype("<f4").tobytes()
