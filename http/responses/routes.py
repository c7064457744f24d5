"""/v1/responses: from a body to an answer, and what can be asked of an answer later."""

from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tokenyard.http.bodies import read_body
from tokenyard.http.checks import whole_number
from tokenyard.http.errors import HttpError, invalid
from tokenyard.http.generation import Generation
from tokenyard.http.mcp.selection import HEADER, chooser, read_wishes
from tokenyard.http.mcp.serving import Begun, Manner, begin
from tokenyard.http.prompt import Prompter
from tokenyard.http.replies import STREAM_HEADERS
from tokenyard.http.responses.background import Run, Runs, follow
from tokenyard.http.responses.conversation_routes import add_conversation_routes
from tokenyard.http.responses.database import Database, Row
from tokenyard.http.responses.format import ResponsesFormat, early_failure, new_response
from tokenyard.http.responses.items import Item
from tokenyard.http.responses.listing import flag, page
from tokenyard.http.responses.request import ResponsesRequest, parse_response, plan_response
from tokenyard.http.responses.store import Record, Store, unstored
from tokenyard.http.service import Service

MANNER = Manner(can_ask=True, returns_mixed=True)

MAX_SEQUENCE = 1 << 53
"""Of `starting_after`: the last integer that every JSON reader keeps."""


def add_routes(api: FastAPI, service: Service) -> None:
    """The routes, and the store that they share."""
    store = Store(service.options.store_path)
    runs = Runs(store, service.drain)
    service.on_start(store.open)
    service.on_close(runs.close)
    service.on_close(store.close)
    maker = _Maker(service, store, runs)
    add_conversation_routes(api, store)

    @api.post("/v1/responses")
    async def create(http: Request) -> Response:
        return await maker.answer(await read_body(http, parse_response), http.headers.get(HEADER))

    @api.post("/v1/responses/input_tokens")
    async def count(http: Request) -> Response:
        return await maker.count(await read_body(http, parse_response), http.headers.get(HEADER))

    @api.get("/v1/responses/{response_id}")
    async def get(response_id: str, http: Request) -> Response:
        row = await _find(store, response_id)
        after = whole_number(http.query_params, "starting_after", -1, -1, MAX_SEQUENCE)
        if not flag(http.query_params, "stream"):
            return JSONResponse(row.body)
        if not row.streams:
            invalid("stream", "is for responses that were created with background and stream both true")
        return _stream(store, row, after, service)

    @api.delete("/v1/responses/{response_id}")
    async def delete(response_id: str) -> dict[str, Any]:
        await _find(store, response_id)
        await store.run(Database.delete, response_id)
        runs.cancel(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    @api.post("/v1/responses/{response_id}/cancel")
    async def cancel(response_id: str) -> Response:
        row = await _find(store, response_id)
        if not row.body["background"]:
            words = "only responses that were created with background true can be cancelled"
            raise HttpError(400, "invalid_value", words)
        runs.cancel(response_id)
        cancelled = await store.run(Database.cancel, response_id)
        return JSONResponse((cancelled or row).body)

    @api.get("/v1/responses/{response_id}/input_items")
    async def list_items(response_id: str, http: Request) -> dict[str, Any]:
        return page((await _find(store, response_id)).items, http.query_params)


class _Maker:
    """Makes responses."""

    def __init__(self, service: Service, store: Store, runs: Runs) -> None:
        self._service = service
        self._store = store
        self._runs = runs

    async def answer(self, request: ResponsesRequest, header: str | None) -> Response:
        """Raises TokenyardError naming the field that does not fit."""
        stored = self._is_stored(request)
        await self._lay(request)

        async def work(prompter: Prompter) -> Response:
            return await self._make(request, prompter, header, stored)

        failure = partial(early_failure, request) if request.stream else None
        return await self._service.answer(request.model, work, failure)

    async def _make(self, request: ResponsesRequest, prompter: Prompter, header: str | None, stored: bool) -> Response:
        generation, parsers = await self._begin(request, prompter, header)
        response = new_response(request, generation.plans[0].job.params, stored)
        if stored:
            streams = request.background and request.stream
            await self._store.run(Database.begin, response, request.items, streams)
        record = Record(self._store, response["id"]) if stored and not request.background else None
        form = ResponsesFormat(request, prompter, generation, parsers, response, record)
        if request.background:
            return await self._start(generation, form, request.stream)
        reply = self._service.reply(generation, form, request.stream)
        return reply if record is None else _Recorded(reply, form, record)

    async def count(self, request: ResponsesRequest, header: str | None) -> Response:
        """How many tokens the model would be given."""
        await self._lay(request)

        async def work(prompter: Prompter) -> Response:
            generation, _ = await self._begin(request, prompter, header)
            num_tokens = len(generation.plans[0].job.prompt_ids)
            return JSONResponse({"object": "response.input_tokens", "input_tokens": num_tokens})

        return await self._service.answer(request.model, work, reads_only=True)

    async def _begin(self, request: ResponsesRequest, prompter: Prompter, header: str | None) -> Begun:
        """With the tools of the servers that the request chooses."""
        wishes = read_wishes(request.raw_tools, header, self._service.hub.configs())
        return await begin(
            self._service,
            request,
            prompter,
            wishes,
            MANNER,
            max_calls=request.max_tool_calls,
            approved=request.decisions.approved,
            denied=request.decisions.denied,
            choose=chooser(request.tool_choice),
            plan=plan_response,
        )

    def _is_stored(self, request: ResponsesRequest) -> bool:
        if request.store is False and (request.background or request.conversation):
            invalid("background" if request.background else "conversation", "needs store to be true")
        if not self._store.on and (request.background or request.store):
            raise unstored("background" if request.background else "store")
        return self._store.on and request.store is not False

    async def _lay(self, request: ResponsesRequest) -> None:
        """Lay the request over what came before it."""
        history: list[Item] = []
        if (previous := request.previous_response_id) is not None:
            history = await self._kept("previous_response_id").history(previous)
        if (conversation := request.conversation) is not None:
            history = await self._kept("conversation").conversation(conversation)
        request.lay(history, await self._store.resolve(request.items))

    def _kept(self, param: str) -> Store:
        """The store, for a field that needs it."""
        if not self._store.on:
            raise unstored(param)
        return self._store

    async def _start(self, generation: Generation, form: ResponsesFormat, stream: bool) -> Response:
        """Let a response be made without its client."""
        response = dict(form.sequencer.response)
        self._runs.start(Run(self._runs, generation, form, stream))
        if not stream:
            return JSONResponse(response)
        return _stream(self._store, await _find(self._store, response["id"]), -1, self._service)


class _Recorded(Response):
    """A reply whose response is in the store, and must not stay there unended."""

    def __init__(self, reply: Response, form: ResponsesFormat, record: Record) -> None:
        super().__init__()
        self._reply = reply
        self._form = form
        self._record = record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._reply(scope, receive, send)
        except BaseException:
            # An error in place of an answer: nobody was told the id.
            self._record.drop()
            raise
        if not self._form.sequencer.ended:
            self._form.leave()


async def _find(store: Store, response_id: str) -> Row:
    """Raises HttpError where there is no such response."""
    row = await store.run(Database.get, response_id) if store.on else None
    if row is None:
        words = "was deleted, or made room for newer ones" if store.on else "this server keeps none (--store off)"
        raise HttpError(404, "not_found", f"there is no response {response_id[:80]!r}: it was never stored, {words}")
    return row


def _stream(store: Store, row: Row, after: int, service: Service) -> Response:
    events = follow(store, row, after, service.options.keep_alive_s)
    return StreamingResponse(events, headers=STREAM_HEADERS, media_type="text/event-stream")
