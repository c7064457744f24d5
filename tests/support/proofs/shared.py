"""Proofs of fields that several endpoints have."""

from typing import Any

from proofs.harness import Like, Proof

PARAMS = "jobs.0.params"
PROCESSORS = f"{PARAMS}.processors"
GRAMMAR = f"{PARAMS}.grammar"
OBJECT = {"type": "object", "properties": {"a": {"type": "string"}}}
SSE = Like("text/event-stream")
THINK = Like("<think>")

SAMPLING: dict[str, Proof] = {
    "temperature": Proof(0.3, f"{PARAMS}.temperature", 0.3),
    "top_p": Proof(0.5, f"{PARAMS}.top_p", 0.5),
    "top_k": Proof(7, f"{PARAMS}.top_k", 7),
    "min_p": Proof(0.1, f"{PARAMS}.min_p", 0.1),
    "presence_penalty": Proof(1, f"{PARAMS}.presence_penalty", 1),
    "frequency_penalty": Proof(-1, f"{PARAMS}.frequency_penalty", -1),
    "repetition_penalty": Proof(1.5, f"{PARAMS}.repetition_penalty", 1.5),
    "seed": Proof(7, f"{PARAMS}.seed", 7),
    "logit_bias": Proof({"5": -100}, f"{PARAMS}.logit_bias", {5: -100}),
    "min_tokens": Proof(3, f"{PARAMS}.min_tokens", 3),
    "ignore_eos": Proof(True, f"{PARAMS}.stop_token_ids", []),
    "stop_token_ids": Proof([9], f"{PARAMS}.stop_token_ids", [9, 2037, 2039]),
    "bad_words": Proof(["friend"], f"{PROCESSORS}.bad_words.#", 1),
    "allowed_token_ids": Proof([5, 6], f"{PROCESSORS}.allowed_token_ids", [5, 6]),
    "typical_p": Proof(0.5, f"{PROCESSORS}.typical_p", 0.5),
    "generation_config": Proof({"top_k": 3}, f"{PARAMS}.top_k", 3),
}

GRAMMARS: dict[str, Proof] = {
    "response_format": Proof({"type": "json_object"}, f"{GRAMMAR}.kind", "json_object"),
    "structured_outputs": Proof({"regex": "a+"}, f"{GRAMMAR}.text", "a+"),
    "guided_json": Proof(OBJECT, f"{GRAMMAR}.kind", "json_schema"),
    "guided_regex": Proof("a+", f"{GRAMMAR}.text", "a+"),
    "guided_choice": Proof(["a", "b"], f"{GRAMMAR}.text", '["a","b"]'),
    "guided_grammar": Proof('root ::= "a"', f"{GRAMMAR}.kind", "ebnf"),
}

NOTES: dict[str, Proof] = {
    "user": Proof("me"),
    "metadata": Proof({"topic": "greetings"}),
    "store": Proof(True),
    "service_tier": Proof("auto"),
    "safety_identifier": Proof("someone"),
    "prompt_cache_key": Proof("key"),
    "prompt_cache_options": Proof({"mode": "implicit"}),
    "prompt_cache_retention": Proof("24h"),
    "ctx_len": Proof(8192),
}

NOT_DONE: dict[str, Proof] = {
    "use_beam_search": Proof(True),
    "length_penalty": Proof(2),
    "early_stopping": Proof(True),
    "logits_processors": Proof(["x"]),
    "spaces_between_special_tokens": Proof(False),
    "guided_whitespace_pattern": Proof(" "),
    "mirostat": Proof(2),
    "dynatemp_range": Proof(0.5),
    "xtc_probability": Proof(0.5),
    "dry_multiplier": Proof(0.8),
    "top_n_sigma": Proof(1),
    "n_predict": Proof(5),
    "grammar": Proof('root ::= "a"'),
    "ebnf": Proof('root ::= "a"'),
    "json_schema": Proof({"type": "object"}),
    "regex": Proof("a+"),
}


def common(text: str, logprob: Proof) -> dict[str, Proof]:
    """Of chat, completions and responses: `text` is where an answer has its text, `logprob` proves a token's name."""
    return {
        **SAMPLING,
        **GRAMMARS,
        **NOTES,
        **NOT_DONE,
        "model": Proof("alias", "answer.model", "alias"),
        "max_tokens": Proof(5, f"{PARAMS}.max_tokens", 5),
        "n": Proof(2, "jobs.#", 2),
        "stop": Proof("friend", text, "Hello there, "),
        "repeat_penalty": Proof(1.5, f"{PARAMS}.repetition_penalty", 1.5),
        "typ_p": Proof(0.5, f"{PROCESSORS}.typical_p", 0.5),
        "max_output_tokens": Proof(5, f"{PARAMS}.max_tokens", 5),
        "stop_sequences": Proof(["friend"], text, "Hello there, "),
        "stream": Proof(True, "type", SSE),
        "stream_options": Proof(
            {"include_usage": True}, "answer.-1.usage.completion_tokens", 8, beside={"stream": True}
        ),
        "skip_special_tokens": Proof(False, text, "A<|endoftext|>B", says="A<|endoftext|>B"),
        "include_stop_str_in_output": Proof(True, text, "Hello there", beside={"stop": "there"}),
        "return_token_ids": Proof(True, "answer.choices.0.token_ids.#", 8),
        "cache_salt": Proof("mine", f"{PARAMS}.cache_salt", "mine"),
        "priority": Proof(5, "jobs.0.priority", 5),
        "prompt_logprobs": Proof(1, f"{PARAMS}.prompt_logprobs", 1),
        "truncate_prompt_tokens": Proof(3, "jobs.0.prompt_ids.#", 3),
        "return_tokens_as_token_ids": logprob,
    }


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "Adds", "parameters": OBJECT}}


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": "1"}}\n</tool_call>'
CALLS = f"{CALL}\n{CALL}"
"""Two calls of one turn."""
