"""What becomes of every field of a request in TGI's shape, and how it reads as a completion.

TGI's requests name no model: where several are served, ours may, in a field `model` beside `inputs`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from tokenyard.broker.params import Grammar
from tokenyard.http.checks import MAX_STOPS, array, boolean, described, instance, integer, number, one_of, string
from tokenyard.http.errors import invalid
from tokenyard.http.fields import HARMLESS, INT64, Field, read, refused_unless
from tokenyard.http.grammars import json_schema, regex
from tokenyard.http.schemas import CompletionRequest

MAX_TOP_TOKENS = 5
"""TGI's limit of top_n_tokens."""

_grammar_type = one_of("json", "json_schema", "regex")


@described({"type": "object", "required": ["type", "value"], "properties": {"type": _grammar_type.schema}})
def grammar(value: Any, param: str) -> Grammar:
    """TGI's object of type and value."""
    if type(value) is not dict:
        invalid(param, "must be an object")
    kind = _grammar_type(value.get("type"), f"{param}.type")
    given = value.get("value")
    if kind == "json_schema" and type(given) is dict:
        given = given.get("schema", given)
    return (regex if kind == "regex" else json_schema)(given, f"{param}.value")


PARAMETERS: dict[str, Field] = {
    "best_of": refused_unless(1, why="above 1 is not done here; /v1/completions has it"),
    "temperature": Field(number(0, 100, above=True)),
    "repetition_penalty": Field(number(0, 10, above=True)),
    "frequency_penalty": Field(number(-2, 2)),
    "top_k": Field(integer(1, INT64)),
    "top_p": Field(number(0, 1, above=True)),
    "typical_p": Field(number(0, 1, above=True)),
    "do_sample": Field(boolean),
    "max_new_tokens": Field(integer(1, INT64)),
    "return_full_text": Field(boolean),
    "stop": Field(array(string(1, 1024), high=MAX_STOPS)),
    "truncate": Field(integer(1, INT64)),
    "details": Field(boolean),
    "decoder_input_details": Field(boolean),
    "seed": Field(integer(0, INT64 - 1)),
    "top_n_tokens": Field(integer(0, MAX_TOP_TOKENS)),
    "grammar": Field(grammar),
    "watermark": refused_unless(False),
    "adapter_id": refused_unless(),
}
"""huggingface_hub's TextGenerationInputGenerateParameters: a test compares the two."""
_PARAMETERS = {f"parameters.{name}": field for name, field in PARAMETERS.items()}

BODY: dict[str, Field] = {
    "inputs": Field(string(1, 1 << 26)),
    "parameters": Field(instance(dict, words="an object")),
    "stream": Field(boolean),
    "model": Field(string(1, 512)),
    "options": HARMLESS,
}
"""`options` are notes for Hugging Face's own service: whether to wait for a model, or use its cache."""

SAMPLES = ("temperature", "top_k", "top_p", "typical_p")
"""Who sends one of these samples, as in TGI."""


@dataclass(slots=True, kw_only=True)
class TgiRequest(CompletionRequest):
    """A completion, with what TGI's answers show."""

    CONTENT: ClassVar[str] = "inputs"
    SILENT_MAX_TOKENS: ClassVar[int | None] = 100

    details: bool = False
    decoder_input_details: bool = False


def parse(body: dict[str, Any], model: str, stream: bool | None) -> TgiRequest:
    """`stream`: None leaves it to the body. Raises TokenyardError naming the first field at fault."""
    values = read(body, BODY, "inputs")
    named = {f"parameters.{name}": value for name, value in values.get("parameters", {}).items()}
    wanted = {name.partition(".")[2]: value for name, value in read(named, _PARAMETERS).items()}
    streams = values.get("stream", False) if stream is None else stream
    details = wanted.get("details", False) or streams
    if streams and wanted.get("decoder_input_details"):
        invalid("parameters.decoder_input_details", "is not there for streams")
    config: dict[str, Any] = {name: wanted[name] for name in ("typical_p", "temperature") if name in wanted}
    config["do_sample"] = wanted.get("do_sample", False) or any(name in wanted for name in SAMPLES)
    sampling: dict[str, Any] = {
        name: wanted[name]
        for name in ("top_k", "top_p", "repetition_penalty", "frequency_penalty", "seed")
        if name in wanted
    }
    return TgiRequest(
        model=model,
        prompt=values["inputs"],
        max_tokens=wanted.get("max_new_tokens"),
        max_tokens_param="parameters.max_new_tokens",
        sampling={**sampling, "generation_config": config},
        grammar=wanted.get("grammar"),
        stop=wanted.get("stop", []),
        include_stop_str_in_output=True,  # TGI's texts end with the stop string
        stream=streams,
        echo=wanted.get("return_full_text", False),
        num_logprobs=wanted.get("top_n_tokens", 0) if details else -1,
        prompt_logprobs=0 if wanted.get("decoder_input_details") else -1,
        truncate_prompt_tokens=wanted.get("truncate", 0),
        details=details,
        decoder_input_details=wanted.get("decoder_input_details", False),
    )
