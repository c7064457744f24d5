"""docs/api.md, made of the field tables and of the proofs of each row.

`PYTHONPATH=tests/support python tests/support/api_page.py` writes it; a test compares.
"""

import json
import sys
from pathlib import Path
from typing import Any, get_args

from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params
from proofs.everything import ENDPOINTS
from proofs.harness import Endpoint, Like, Made, Proof, Some, Unlike, fate

from tokenyard.http.fields import CHAT, COMPLETIONS, Field
from tokenyard.http.openapi.operations import OPERATIONS
from tokenyard.http.responses.fields import RESPONSES

PATH = Path(__file__).parents[2] / "docs" / "api.md"

INTRODUCTION = """# The API, field by field

Made by tests/support/api_page.py from the tables that read requests (http/fields.py and its like) and from the proofs
of each row (tests/support/proofs), which tests run. Do not edit it by hand.

Every field is one of three. **Honoured**: it does what its API says. **Harmless**: accepted, and the answer is the
same without it. **Refused**: a 400 that names the field, unless the value asks for nothing. `null` is the same as
leaving a field out. A field that is in no table is accepted: clients send notes of all kinds. Numbers are not coerced:
`"5"` is no number, `1.0` is no integer. `GET /openapi.json` says the same to machines, with examples.

A row's proof is a request with the field, and the same without: *sent* is the field's value, and *then* says what of
the workers' `jobs`, of what the broker is `asked`, of the `answer` or of its `type` is so with the field and not
without it (`#` is a length). What workers make of a job's `params` is proved against transformers in tests/workers.
"""

ERRORS = """
## Errors

| where | shape |
| --- | --- |
| all others | `{"error": {"message", "type", "param", "code"}}`, `param` is a path: `stop.1` |
| `/v1/messages` | `{"type": "error", "error": {"type", "message"}}` |
| `/generate`, `/generate_stream`, `/` | `{"error", "error_type"}` |
| `/v1/systemone` | `{"detail"}`, a text or FastAPI's list with a 422 |

A stream's headers wait up to a second for its job to run, so that nearly every refusal is an HTTP status. After that
second a stream whose model is being loaded tells how far that is, in comments (`: loading org/name 42 %`). What fails
later ends the stream, in place of its end:

| stream | the failure |
| --- | --- |
| chat completions, completions | `data: {"error": {...}}`, then `data: [DONE]` |
| responses | `event: response.failed`, its `response.error` with `code` and `message` |
| Anthropic's messages | `event: error` with `{"type": "error", "error": {...}}` |
| TGI | `data: {"error", "error_type"}` |
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION, _endpoints(), ERRORS, _extensions(), *(_fields(endpoint) for endpoint in ENDPOINTS)]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def _endpoints() -> str:
    rows = []
    for one in OPERATIONS:
        streams = ", also as a stream" if one.streams and "stream" not in one.summary else ""
        rows.append(f"| `{one.method} {one.path}` | {one.summary}{streams} |")
    return "\n".join(["## Endpoints", "", "| endpoint | |", "| --- | --- |", *rows])


def _extensions() -> str:
    """What is honoured and the openai SDK does not know."""
    lines = [
        "## Beyond OpenAI",
        "",
        "Honoured fields that the openai SDK has no parameter for; it sends them from `extra_body`.",
    ]
    for title, table, params in (
        ("chat completions", CHAT, chat_create_params.CompletionCreateParams),
        ("completions", COMPLETIONS, completion_create_params.CompletionCreateParams),
        ("responses", RESPONSES, response_create_params.ResponseCreateParams),
    ):
        known = {name for kind in get_args(params) for name in kind.__annotations__}
        names = [f"`{name}`" for name, field in table.items() if fate(field) == "honoured" and name not in known]
        lines += ["", f"- **{title}**: {', '.join(names)}"]
    return "\n".join(lines)


def _fields(endpoint: Endpoint) -> str:
    below = f", below `{endpoint.inside}`" if endpoint.inside else ""
    lines = [f"## {endpoint.title}", "", f"`POST {endpoint.path}`{below}.", ""]
    lines += ["| field | | takes | sent | then |", "| --- | --- | --- | --- | --- |"]
    for name, field in endpoint.table.items():
        proof = endpoint.proofs[name]
        lines.append(f"| `{name}` | {fate(field)} | {_takes(field)} | {_sent(proof.value)} | {_then(field, proof)} |")
    return "\n".join(lines)


def _takes(field: Field) -> str:
    if field.honoured is not None:
        return _words(field.honoured.schema).replace("|", "\\|")
    if field.refused is None:
        return "anything"
    return f"only {', '.join(map(_code, field.neutral))}" if field.neutral else "nothing"


def _words(schema: dict[str, Any]) -> str:
    """A schema, short."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_words(one) for one in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type")
    if kind in ("number", "integer"):
        low = (
            f"above {schema['exclusiveMinimum']}"
            if "exclusiveMinimum" in schema
            else f"from {_short(schema['minimum'])}"
        )
        return f"{kind} {low} to {_short(schema['maximum'])}"
    if kind == "array":
        inner = _words(schema["items"]) if schema.get("items") else "values"
        return f"list of {inner}"
    return " or ".join(kind) if isinstance(kind, list) else kind or "see its own page"


def _short(number: float) -> str:
    """A bound; the very large are powers of two."""
    if abs(number) < 1 << 24:
        return str(number)
    power = (abs(int(number)) + 1).bit_length() - 1
    return f"{'-' * (number < 0)}2^{power}"


def _sent(value: Any) -> str:
    return f"the id that {_code(value.body)} made" if isinstance(value, Made) else _code(value)


def _code(value: Any) -> str:
    return "`" + json.dumps(value).replace("|", "\\|") + "`"


def _then(field: Field, proof: Proof) -> str:
    if field.refused is not None:
        return "400"
    if not proof.at:
        return "the same answer"
    beside = f" (beside {', '.join(f'`{name}`' for name in proof.beside)})" if proof.beside else ""
    return f"`{proof.at}` {_becomes(proof.becomes)}{beside}"


def _becomes(value: Any) -> str:
    match value:
        case Like(pattern):
            return f"has {_code(pattern)}"
        case Unlike(pattern):
            return f"has no {_code(pattern)}"
        case Some():
            return "is there"
    return f"is {_code(value)}"


def main() -> None:
    PATH.write_text(page())


if __name__ == "__main__":
    sys.exit(main())
