"""Every route, as the OpenAPI document tells of it: in words, with the table that reads its body. A test compares the
list with the application's own.
"""

from typing import NamedTuple

from tokenyard.http.anthropic.fields import COUNTED, MESSAGES
from tokenyard.http.checks import Schema, or_null
from tokenyard.http.decisions.fields import DECISIONS
from tokenyard.http.decisions.systemone import SystemOneRequest
from tokenyard.http.embeddings import EMBEDDINGS
from tokenyard.http.fields import CHAT, COMPLETIONS
from tokenyard.http.loras import LOAD as LOAD_ADAPTER
from tokenyard.http.loras import UNLOAD as UNLOAD_ADAPTER
from tokenyard.http.model_routes import LOAD
from tokenyard.http.openapi.schemas import of_table
from tokenyard.http.responses.conversation_routes import BODY as CONVERSATION
from tokenyard.http.responses.fields import RESPONSES
from tokenyard.http.responses.listing import MAX_LIMIT
from tokenyard.http.tgi.fields import BODY as TGI
from tokenyard.http.tgi.fields import PARAMETERS
from tokenyard.http.tgi.routes import EMBED
from tokenyard.http.tokenizing import DETOKENIZE, TOKENIZE


class Operation(NamedTuple):
    """One method of one path."""

    method: str
    path: str
    tag: str
    summary: str
    body: str = ""
    """The name of the request's body in BODIES; empty where there is none."""
    query: dict[str, Schema] = {}
    streams: bool = False
    """Whether it may answer with server-sent events."""

    @property
    def key(self) -> str:
        return f"{self.method} {self.path}"


def _tgi() -> Schema:
    """Of a text to go on with, or of texts for an encoder's vectors."""
    text = of_table(TGI, ("inputs",))
    text["properties"]["parameters"] = or_null(of_table(PARAMETERS, ()))
    return {"anyOf": [text, of_table(EMBED, ("inputs",))]}


_CHAT = of_table(CHAT, ("model", "messages"))

BODIES: dict[str, Schema] = {
    "Chat": _CHAT,
    "Completion": of_table(COMPLETIONS, ("model", "prompt")),
    "Response": of_table(RESPONSES, ("model",)),
    "Conversation": of_table(CONVERSATION, ()),
    "Messages": of_table(MESSAGES, ("model", "messages", "max_tokens")),
    "CountTokens": of_table(COUNTED, ("model", "messages")),
    "Embeddings": of_table(EMBEDDINGS, ("model", "input")),
    "LoadAdapter": of_table(LOAD_ADAPTER, ("lora_name", "lora_path")),
    "UnloadAdapter": of_table(UNLOAD_ADAPTER, ("lora_name",)),
    "Decisions": of_table(DECISIONS, ("model", "input", "questions")),
    "SystemOne": SystemOneRequest.model_json_schema(),
    "Generate": _tgi(),
    "LoadModel": of_table(LOAD, ("model",)),
    "Tokenize": {
        "anyOf": [
            of_table(TOKENIZE, ("prompt",)),
            of_table({**CHAT, "return_token_strs": TOKENIZE["return_token_strs"]}, ("messages",)),
        ]
    },
    "Detokenize": of_table(DETOKENIZE, ("tokens",)),
    "ApplyTemplate": {**_CHAT, "required": ["messages"]},
}

_PAGE: dict[str, Schema] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
    "order": {"enum": ["asc", "desc"]},
    "after": {"type": "string"},
}
_ANTHROPIC_PAGE: dict[str, Schema] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000},
    "after_id": {"type": "string"},
    "before_id": {"type": "string"},
}
_FOLLOW: dict[str, Schema] = {"stream": {"type": "boolean"}, "starting_after": {"type": "integer", "minimum": -1}}

_RESPONSE = "/v1/responses/{response_id}"
_CONVERSATION = "/v1/conversations/{conversation_id}"
_ITEM = f"{_CONVERSATION}/items/{{item_id}}"

OPERATIONS = [
    Operation("POST", "/v1/chat/completions", "chat", "Go on with a conversation", "Chat", streams=True),
    Operation("POST", "/v1/completions", "completions", "Go on with texts or token ids", "Completion", streams=True),
    Operation("POST", "/v1/responses", "responses", "Make a response", "Response", streams=True),
    Operation("POST", "/v1/responses/input_tokens", "responses", "Count a response's input", "Response"),
    Operation("GET", _RESPONSE, "responses", "Fetch a response, or follow its stream", query=_FOLLOW, streams=True),
    Operation("GET", f"{_RESPONSE}/input_items", "responses", "List a response's input", query=_PAGE),
    Operation("POST", f"{_RESPONSE}/cancel", "responses", "Cancel a response made in the background"),
    Operation("DELETE", _RESPONSE, "responses", "Forget a response"),
    Operation("POST", "/v1/conversations", "responses", "Begin a conversation", "Conversation"),
    Operation("GET", _CONVERSATION, "responses", "Fetch a conversation"),
    Operation("POST", _CONVERSATION, "responses", "Set a conversation's metadata", "Conversation"),
    Operation("POST", f"{_CONVERSATION}/items", "responses", "Add items to a conversation", "Conversation", _PAGE),
    Operation("GET", f"{_CONVERSATION}/items", "responses", "List a conversation's items", query=_PAGE),
    Operation("GET", _ITEM, "responses", "Fetch an item"),
    Operation("DELETE", _ITEM, "responses", "Take an item out of a conversation"),
    Operation("DELETE", _CONVERSATION, "responses", "Forget a conversation"),
    Operation("POST", "/v1/messages", "anthropic", "Go on with a conversation", "Messages", streams=True),
    Operation("POST", "/v1/messages/count_tokens", "anthropic", "Count a conversation's tokens", "CountTokens"),
    Operation("POST", "/v1/embeddings", "embeddings", "Texts to vectors", "Embeddings"),
    Operation("POST", "/v1/decisions", "decisions", "Answer typed questions with probabilities", "Decisions"),
    Operation("POST", "/v1/systemone", "decisions", "The same as transformers' own server has it", "SystemOne"),
    Operation("POST", "/generate", "tgi", "Go on with a text, or turn texts to vectors", "Generate"),
    Operation("POST", "/generate_stream", "tgi", "Go on with a text, as a stream", "Generate", streams=True),
    Operation("POST", "/", "tgi", "Either of the two, as `stream` says", "Generate", streams=True),
    Operation("GET", "/info", "tgi", "What is served"),
    Operation("POST", "/tokenize", "tokens", "What a model is given, as token ids", "Tokenize"),
    Operation("POST", "/detokenize", "tokens", "Token ids to text", "Detokenize"),
    Operation("POST", "/apply-template", "tokens", "A conversation as the model reads it", "ApplyTemplate"),
    Operation("GET", "/v1/models", "models", "The models there are: up, loading, or to be had", query=_ANTHROPIC_PAGE),
    Operation("GET", "/v1/models/{name}", "models", "One model"),
    Operation("POST", "/load_model", "models", "Load a model, as a stream of how far it is", "LoadModel", streams=True),
    Operation("POST", "/v1/models/load", "models", "Load a model", "LoadModel"),
    Operation("POST", "/v1/models/unload", "models", "Unload a model", "LoadModel"),
    Operation("POST", "/v1/load_lora_adapter", "models", "Load a LoRA adapter into all workers", "LoadAdapter"),
    Operation("POST", "/v1/unload_lora_adapter", "models", "Serve an adapter no more", "UnloadAdapter"),
    Operation("GET", "/v1/mcp/servers", "mcp", "The MCP servers and how they do"),
    Operation("GET", "/v1/mcp/tools", "mcp", "The MCP servers' tools"),
    Operation("GET", "/v1/mcp/resources", "mcp", "The MCP servers' resources"),
    Operation("GET", "/v1/mcp/prompts", "mcp", "The MCP servers' prompts"),
    Operation("GET", "/health", "probes", "Whether the front lives"),
    Operation("GET", "/ready", "probes", "Whether there is a model to ask"),
    Operation("GET", "/version", "probes", "The version"),
    Operation("GET", "/metrics", "probes", "Figures for Prometheus, as text"),
    Operation("GET", "/openapi.json", "probes", "The API in OpenAPI 3.1"),
]
