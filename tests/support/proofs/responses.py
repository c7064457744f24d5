"""Proofs of /v1/responses."""

from typing import Any

from proofs.harness import Endpoint, Like, Made, Proof, Some
from proofs.shared import CALLS, GRAMMAR, OBJECT, PARAMS, THINK, common

from tokenyard.http.responses.fields import LOGPROBS, RESPONSES

_TEXT = "answer.output.0.content.0.text"
_TOKEN = "answer.output.0.content.0.logprobs.0.token"
_TOOL = {"type": "function", "name": "add", "parameters": OBJECT}
_TOOLS: dict[str, Any] = {"tools": [_TOOL]}
_HISTORY = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One, two"}]
_INCLUDE: dict[str, Any] = {"include": [LOGPROBS]}
_COMMON = {
    name: proof
    for name, proof in common(_TEXT, Proof(True, _TOKEN, Like("^token_id:"), beside=_INCLUDE)).items()
    if name in RESPONSES
}

responses = Endpoint(
    "Responses",
    "/v1/responses",
    RESPONSES,
    {"model": "demo", "input": "Say hello."},
    {
        **_COMMON,
        "input": Proof("Count.", "jobs.0.prompt", Like("Count")),
        "instructions": Proof("Be brief.", "jobs.0.prompt", Like("Be brief")),
        "previous_response_id": Proof(
            Made("/v1/responses", {"model": "demo", "input": "Count."}), "jobs.0.prompt", Like("Count")
        ),
        "conversation": Proof(
            Made("/v1/conversations", {"items": [{"role": "user", "content": "Count."}]}),
            "jobs.0.prompt",
            Like("Count"),
        ),
        "store": Proof(False, "answer.store", False),
        "background": Proof(True, "answer.status", "queued"),
        "max_output_tokens": Proof(5, f"{PARAMS}.max_tokens", 5),
        "max_tool_calls": Proof(3, "answer.max_tool_calls", 3),
        "metadata": Proof({"topic": "greetings"}, "answer.metadata", {"topic": "greetings"}),
        "include": Proof([LOGPROBS], _TOKEN, "Hello"),
        "top_logprobs": Proof(2, f"{PARAMS}.logprobs", 2, beside=_INCLUDE),
        "tools": Proof([_TOOL], "jobs.0.prompt", Like('"name": ?"add"')),
        "tool_choice": Proof("required", GRAMMAR, Some(), beside=_TOOLS, says=CALLS),
        "parallel_tool_calls": Proof(False, "answer.output.#", 1, beside=_TOOLS, says=CALLS),
        "reasoning": Proof({"effort": "high"}, "jobs.0.prompt", THINK),
        "text": Proof({"format": {"type": "json_object"}}, f"{GRAMMAR}.kind", "json_object"),
        "truncation": Proof("auto", "answer.truncation", "auto"),
        "stream_options": Proof({"include_obfuscation": True}, "answer.4.obfuscation", Some(), beside={"stream": True}),
        "chat_template_kwargs": Proof({"enable_thinking": True}, "jobs.0.prompt", THINK),
        "continue_final_message": Proof(True, "jobs.0.prompt", Like("One, two$"), beside={"input": _HISTORY}),
        "user": Proof("me", "answer.user", "me"),
        "safety_identifier": Proof("someone", "answer.safety_identifier", "someone"),
        "prompt_cache_key": Proof("key", "answer.prompt_cache_key", "key"),
        "access_programs": Proof(["x"]),
        "background_options": Proof({}),
        "image": Proof({}),
        "context_management": Proof([{"type": "compaction"}]),
        "moderation": Proof({"model": "m"}),
        "personality": Proof("friendly"),
        "prompt": Proof({"id": "pmpt_1"}),
        "messages": Proof([{"role": "user", "content": "hi"}]),
        "n": Proof(2),
        "max_tokens": Proof(5),
        "max_completion_tokens": Proof(5),
        "response_format": Proof({"type": "text"}),
        "reasoning_effort": Proof("low"),
        "return_token_ids": Proof(True),
        "prompt_logprobs": Proof(1),
    },
)
