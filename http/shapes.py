"""JSON Schemas of what is read part by part: messages, items, blocks and tools. For people and their tools to read.

What is refused is decided where each is read (messages.py, tools.py, responses/items.py, anthropic/conversation.py);
these say what usual requests look like, and a test sends the example of each to the reader.
"""

from typing import Any

from tokenyard.http.checks import Check, Schema, anything

_TEXT: Schema = {"type": "string"}
_FUNCTION: Schema = {"type": "object", "properties": {"name": _TEXT, "arguments": _TEXT}}
_PARAMETERS: Schema = {"type": ["object", "null"], "description": "A JSON Schema of the arguments."}


def read_elsewhere(schema: Schema) -> Check:
    """The check of a part that is read where more is known; `schema` is what it usually looks like."""
    return Check(lambda value, param: anything(value, param), schema)


def _object(required: tuple[str, ...], **properties: Any) -> Schema:
    return {"type": "object", "required": list(required), "properties": properties}


def _texts(*kinds: str) -> Schema:
    """A string, or a list of parts of these types."""
    part = _object(("type",), type={"enum": list(kinds)}, text=_TEXT)
    return {"anyOf": [_TEXT, {"type": "array", "items": part}, {"type": "null"}]}


def _named(field: str, *choices: str) -> Schema:
    """One of these words, or an object that names a tool."""
    by_name = _object(("type",), type={"enum": ["function", "custom", "allowed_tools", "mcp"]})
    return {"anyOf": [{"enum": list(choices)}, by_name], "description": field}


MESSAGE: Schema = _object(
    ("role",),
    role={"enum": ["system", "developer", "user", "assistant", "tool"]},
    content=_texts("text", "refusal"),
    name={"type": ["string", "null"]},
    tool_call_id={"type": ["string", "null"]},
    reasoning_content={"type": ["string", "null"], "description": "A thought that comes back; also as `reasoning`."},
    tool_calls={
        "type": ["array", "null"],
        "items": _object(("function",), id=_TEXT, type={"const": "function"}, function=_FUNCTION),
    },
)
"""Of /v1/chat/completions."""

TOOL: Schema = {
    "anyOf": [
        _object(
            ("type", "function"),
            type={"const": "function"},
            function=_object(
                ("name",),
                name={"type": "string", "minLength": 1, "maxLength": 256},
                description={"type": ["string", "null"]},
                parameters=_PARAMETERS,
                strict={"type": ["boolean", "null"]},
            ),
        ),
        _object(("type", "server_label"), type={"const": "mcp"}, server_label=_TEXT),
    ]
}
"""A function of the client's, or an MCP server of ours."""

TOOL_CHOICE = _named("What may be called; an object names one function, or some.", "none", "auto", "required")

ITEM: Schema = _object(
    (),
    type={
        "enum": [
            *("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"),
            *("reasoning", "item_reference", "additional_tools"),
            *("mcp_call", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response"),
        ]
    },
    role={"enum": ["user", "assistant", "system", "developer"]},
    content=_texts("input_text", "output_text", "text", "refusal", "reasoning_text"),
    id={"type": ["string", "null"]},
    call_id=_TEXT,
    name=_TEXT,
    arguments=_TEXT,
    input=_TEXT,
    output=_texts("input_text"),
)
"""Of /v1/responses; one with a role may leave its type out."""

ITEM_TOOL: Schema = _object(
    ("type",),
    type={"type": "string", "description": "function, custom, namespace or mcp; others are passed over."},
    name=_TEXT,
    description={"type": ["string", "null"]},
    parameters=_PARAMETERS,
    strict={"type": ["boolean", "null"]},
    server_label=_TEXT,
)

_BLOCKS: Schema = {
    "anyOf": [
        _TEXT,
        {
            "type": "array",
            "items": _object(
                ("type",),
                type={
                    "enum": [
                        *("text", "document", "search_result", "tool_result", "tool_use", "thinking"),
                        *("redacted_thinking", "mcp_tool_use", "mcp_tool_result"),
                    ]
                },
                text=_TEXT,
                id=_TEXT,
                name=_TEXT,
                input={"type": "object"},
                tool_use_id=_TEXT,
                thinking=_TEXT,
                signature=_TEXT,
            ),
        },
    ]
}

BLOCK_MESSAGE: Schema = _object(("role", "content"), role={"enum": ["user", "assistant", "system"]}, content=_BLOCKS)
"""Of /v1/messages."""

BLOCK_TOOL: Schema = _object(
    ("name", "input_schema"),
    type={"enum": ["custom", None]},
    name={"type": "string", "minLength": 1, "maxLength": 128},
    description={"type": ["string", "null"]},
    input_schema={"type": "object", "description": "A JSON Schema of the input."},
    strict={"type": ["boolean", "null"]},
)
