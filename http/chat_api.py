"""POST /v1/chat/completions: the route."""

from fastapi import FastAPI, Request
from fastapi.responses import Response

from tokenyard.http.bodies import read_body
from tokenyard.http.chat import ChatFormat
from tokenyard.http.mcp.attachments import attach
from tokenyard.http.mcp.selection import HEADER, is_mcp, read_wishes
from tokenyard.http.mcp.serving import begin
from tokenyard.http.prompt import Prompter
from tokenyard.http.replies import openai_failure
from tokenyard.http.schemas import parse_chat
from tokenyard.http.service import Service


def add_routes(api: FastAPI, service: Service) -> None:
    @api.post("/v1/chat/completions")
    async def chat(http: Request) -> Response:
        request = await read_body(http, parse_chat)

        async def work(prompter: Prompter) -> Response:
            wishes = read_wishes(request.tools, http.headers.get(HEADER), service.hub.configs())
            request.tools = [tool for tool in request.tools if not is_mcp(tool)]
            request.messages = await attach(service.hub, request.messages, prompter.loaded.marks)
            generation, parsers = await begin(service, request, prompter, wishes)
            return service.reply(generation, ChatFormat(request, prompter, generation, parsers), request.stream)

        return await service.answer(request.model, work, openai_failure if request.stream else None)
