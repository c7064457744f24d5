"""Proofs of embeddings, decisions, conversations, TGI, tokens, and the attributes of a generation_config."""

from proofs.harness import MARKED, Endpoint, Like, Proof, Unlike
from proofs.shared import GRAMMAR, PARAMS, PROCESSORS, SSE

from tokenyard.http.decisions.fields import DECISIONS
from tokenyard.http.embeddings import EMBEDDINGS
from tokenyard.http.fields import HARMLESS, Field, refused_unless
from tokenyard.http.generation_config import CONFIG_FIELDS, CONFIG_HARMLESS, CONFIG_NEUTRAL, REQUEST_FIELDS
from tokenyard.http.loras import LOAD, UNLOAD
from tokenyard.http.responses.conversation_routes import BODY as CONVERSATION
from tokenyard.http.tgi.fields import BODY, PARAMETERS
from tokenyard.http.tokenizing import DETOKENIZE, TOKENIZE

embeddings = Endpoint(
    "Embeddings",
    "/v1/embeddings",
    EMBEDDINGS,
    {"model": "demo", "input": "Say hello to them all."},
    {
        "model": Proof("alias", "answer.model", "alias"),
        "input": Proof(["One", "Two"], "answer.data.#", 2),
        "encoding_format": Proof("base64", "answer.data.0.embedding", "mpkZPwAAAADNzEw/"),
        "dimensions": Proof(2, "answer.data.0.embedding", [1, 0]),
        "truncate_prompt_tokens": Proof(3, "jobs.0.prompt_ids.#", 3),
        "add_special_tokens": Proof(False, "jobs.0.prompt", Unlike("^<.im_start.>"), beside={"model": MARKED}),
        "priority": Proof(5, "jobs.0.priority", 5),
        "user": Proof("me"),
    },
)

_STRINGS = {"return_token_strs": True}
_QUESTION = {"type": "predicate", "instructions": "The message is spam."}

decisions = Endpoint(
    "Decisions",
    "/v1/decisions",
    DECISIONS,
    {"model": "demo", "input": "WIN!", "questions": [_QUESTION]},
    {
        "model": Proof("alias", "answer.model", "alias"),
        "input": Proof("Lunch?", "jobs.0.prompt", Like("Lunch")),
        "questions": Proof([{**_QUESTION, "instructions": "It is friendly."}], "jobs.0.prompt", Like("friendly")),
        "prompt_cache_key": Proof("key"),
        "prompt_cache_options": Proof({"mode": "implicit"}),
        "safety_identifier": Proof("someone"),
    },
)

tokenize = Endpoint(
    "Tokenize",
    "/tokenize",
    TOKENIZE,
    {"model": "demo", "prompt": "Say hello."},
    {
        "model": Proof("unknown", "answer.error.param", "model"),
        "prompt": Proof("Say hello, please.", "answer.count", 6),
        "add_special_tokens": Proof(False, "answer.token_strs.0", "Say", beside={"model": MARKED, **_STRINGS}),
        "return_token_strs": Proof(True, "answer.token_strs.0", "Say"),
    },
)

detokenize = Endpoint(
    "Detokenize",
    "/detokenize",
    DETOKENIZE,
    {"model": "demo", "tokens": [50, 60]},
    {
        "model": Proof("unknown", "answer.error.param", "model"),
        "tokens": Proof([2038], "answer.prompt", "<|im_start|>"),
    },
)

_WIZARD = {"type": "message", "role": "wizard", "content": "hi"}

conversations = Endpoint(
    "Conversations",
    "/v1/conversations",
    CONVERSATION,
    {},
    {
        "items": Proof([_WIZARD], "answer.error.param", "items.0.role"),
        "metadata": Proof({"topic": "greetings"}, "answer.metadata", {"topic": "greetings"}),
    },
)

_INPUTS = {"inputs": "Say hello to them all."}

tgi = Endpoint(
    "TGI",
    "/generate",
    {name: field for name, field in BODY.items() if name != "stream"},
    _INPUTS,
    {
        "inputs": Proof("Count.", "jobs.0.prompt", "Count."),
        "parameters": Proof({"max_new_tokens": 5}, f"{PARAMS}.max_tokens", 5),
        "model": Proof("unknown", "answer.error", Like("unknown")),
        "options": Proof({"wait_for_model": True}),
    },
)

tgi_stream = Endpoint("TGI at `/`", "/", {"stream": BODY["stream"]}, _INPUTS, {"stream": Proof(True, "type", SSE)})

tgi_parameters = Endpoint(
    "TGI's parameters",
    "/generate",
    PARAMETERS,
    _INPUTS,
    {
        "best_of": Proof(2),
        "temperature": Proof(0.3, f"{PARAMS}.temperature", 0.3),
        "repetition_penalty": Proof(1.5, f"{PARAMS}.repetition_penalty", 1.5),
        "frequency_penalty": Proof(1, f"{PARAMS}.frequency_penalty", 1),
        "top_k": Proof(7, f"{PARAMS}.top_k", 7),
        "top_p": Proof(0.5, f"{PARAMS}.top_p", 0.5),
        "typical_p": Proof(0.5, f"{PROCESSORS}.typical_p", 0.5),
        "do_sample": Proof(True, f"{PARAMS}.temperature", 1),
        "max_new_tokens": Proof(5, f"{PARAMS}.max_tokens", 5),
        "return_full_text": Proof(True, "answer.generated_text", "Say hello to them all.Hello there, friend!"),
        "stop": Proof(["friend"], "answer.generated_text", "Hello there, friend"),
        "truncate": Proof(3, "jobs.0.prompt_ids.#", 3),
        "details": Proof(True, "answer.details.generated_tokens", 8),
        "decoder_input_details": Proof(True, f"{PARAMS}.prompt_logprobs", 0),
        "seed": Proof(7, f"{PARAMS}.seed", 7),
        "top_n_tokens": Proof(2, f"{PARAMS}.logprobs", 2, beside={"details": True}),
        "grammar": Proof({"type": "regex", "value": "a+"}, f"{GRAMMAR}.text", "a+"),
        "watermark": Proof(True),
        "adapter_id": Proof("mine"),
    },
    inside="parameters",
)

CONFIG: dict[str, Field] = {
    **{name: Field(check) for name, check in {**CONFIG_FIELDS, **REQUEST_FIELDS}.items()},
    **{name: refused_unless(*neutral) for name, neutral in CONFIG_NEUTRAL.items()},
    **dict.fromkeys(sorted(CONFIG_HARMLESS), HARMLESS),
}
"""The attributes of transformers' GenerationConfig, as a table."""

_SAMPLED = {"do_sample": True}

config = Endpoint(
    "The attributes of `generation_config`",
    "/v1/chat/completions",
    CONFIG,
    {"model": "demo", "messages": [{"role": "user", "content": "Say hello."}]},
    {
        "do_sample": Proof(True, f"{PARAMS}.temperature", 1),
        "temperature": Proof(0.3, f"{PARAMS}.temperature", 0.3),
        "top_p": Proof(0.5, f"{PARAMS}.top_p", 0.5),
        "top_k": Proof(7, f"{PARAMS}.top_k", 7),
        "min_p": Proof(0.1, f"{PARAMS}.min_p", 0.1),
        "top_h": Proof(0.5, f"{PROCESSORS}.top_h", 0.5),
        "typical_p": Proof(0.5, f"{PROCESSORS}.typical_p", 0.5),
        "epsilon_cutoff": Proof(0.1, f"{PROCESSORS}.epsilon_cutoff", 0.1),
        "eta_cutoff": Proof(0.1, f"{PROCESSORS}.eta_cutoff", 0.1),
        "repetition_penalty": Proof(1.5, f"{PARAMS}.repetition_penalty", 1.5),
        "no_repeat_ngram_size": Proof(3, f"{PROCESSORS}.no_repeat_ngram_size", 3),
        "bad_words_ids": Proof([[5, 6]], f"{PROCESSORS}.bad_words", [[5, 6]]),
        "sequence_bias": Proof([[[5], 2]], f"{PROCESSORS}.sequence_bias.0.bias", 2),
        "suppress_tokens": Proof([5], f"{PROCESSORS}.suppress_tokens", [5]),
        "begin_suppress_tokens": Proof([5], f"{PROCESSORS}.begin_suppress_tokens", [5]),
        "exponential_decay_length_penalty": Proof([5, 1.5], f"{PROCESSORS}.decay_factor", 1.5),
        "remove_invalid_values": Proof(True, f"{PROCESSORS}.remove_invalid_values", True),
        "max_new_tokens": Proof(5, f"{PARAMS}.max_tokens", 5),
        "max_length": Proof(100, f"{PARAMS}.max_tokens", 88),
        "min_new_tokens": Proof(3, f"{PARAMS}.min_tokens", 3),
        "min_length": Proof(50, f"{PARAMS}.min_tokens", 38),
        "stop_strings": Proof(["friend"], "answer.choices.0.message.content", "Hello there, "),
        "eos_token_id": Proof(9, f"{PARAMS}.stop_token_ids", [9]),
        "forced_eos_token_id": Proof(9, f"{PROCESSORS}.forced_eos_token_ids", [9]),
        "num_return_sequences": Proof(2, "jobs.#", 2),
        **{name: Proof("x") for name in CONFIG_NEUTRAL},
        **{name: Proof(1) for name in CONFIG_HARMLESS},
    },
    inside="generation_config",
)

_SQL = {"lora_name": "sql", "lora_path": "me/sql"}

load_lora = Endpoint(
    "Load a LoRA adapter",
    "/v1/load_lora_adapter",
    LOAD,
    _SQL,
    {
        "lora_name": Proof("cook", "asked.0.adapter.name", "cook"),
        "lora_path": Proof("me/cook", "asked.0.adapter.source", "me/cook"),
        "load_inplace": Proof(True, "asked.0.replace", True),
        "base_model_name": Proof("unknown", "answer.error.param", "base_model_name"),
        "is_3d_lora_weight": Proof(True),
    },
)

unload_lora = Endpoint(
    "Unload a LoRA adapter",
    "/v1/unload_lora_adapter",
    UNLOAD,
    {"lora_name": "sql"},
    {"lora_name": Proof("cook", "asked.0.name", "cook"), "lora_int_id": Proof(7)},
)
