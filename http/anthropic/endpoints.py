"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API, for its clients and for Claude Code."""

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from tokenyard.http.anthropic.answer import MessagesFormat, failure
from tokenyard.http.anthropic.errors import error_body
from tokenyard.http.anthropic.mcp import read_wishes
from tokenyard.http.anthropic.request import parse_count, parse_messages, set_reasoning
from tokenyard.http.bodies import read_body
from tokenyard.http.errors import SHAPES
from tokenyard.http.mcp.selection import HEADER, unasked
from tokenyard.http.mcp.serving import begin
from tokenyard.http.prompt import Prompter
from tokenyard.http.service import Service

PATH = "/v1/messages"


def add_routes(api: FastAPI, service: Service) -> None:
    SHAPES[PATH] = error_body

    @api.post(PATH)
    async def messages(http: Request) -> Response:
        request = await read_body(http, parse_messages)

        async def work(prompter: Prompter) -> Response:
            set_reasoning(request, prompter.loaded.template)
            configs = service.hub.configs()
            wishes = read_wishes(request.mcp_servers, request.all_tools, configs) or unasked(
                bool(request.all_tools), http.headers.get(HEADER), configs
            )
            generation, parsers = await begin(service, request, prompter, wishes)
            return service.reply(generation, MessagesFormat(request, generation, parsers), request.stream)

        return await service.answer(request.model, work, failure if request.stream else None)

    @api.post(f"{PATH}/count_tokens")
    async def count_tokens(http: Request) -> Response:
        request = await read_body(http, parse_count)

        async def work(prompter: Prompter) -> Response:
            set_reasoning(request, prompter.loaded.template)
            return JSONResponse({"input_tokens": await prompter.count_chat(request)})

        return await service.answer(request.model, work, reads_only=True)
