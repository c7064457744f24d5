"""Proofs of /v1/chat/completions and /v1/completions."""

from typing import Any

from proofs.harness import MARKED, Endpoint, Like, Proof, Some, Unlike
from proofs.shared import CALLS, GRAMMAR, PARAMS, THINK, common, tool

from tokenyard.http.fields import CHAT, COMPLETIONS

_MESSAGES = [{"role": "user", "content": "Say hello."}]
_ASSISTANT = {"role": "assistant", "content": "One, two"}
_CHOICE = "answer.choices.0"
_CONTENT = f"{_CHOICE}.message.content"
_THOUGHT = "<think>\nHm.\n</think>\n\nHello"
_TOOLS: dict[str, Any] = {"tools": [tool("add")]}
_TOKEN = f"{_CHOICE}.logprobs.content.0.token"

chat = Endpoint(
    "Chat completions",
    "/v1/chat/completions",
    CHAT,
    {"model": "demo", "messages": _MESSAGES},
    {
        **common(_CONTENT, Proof(True, _TOKEN, Like("^token_id:"), beside={"logprobs": True})),
        "messages": Proof([{"role": "user", "content": "Count."}], "jobs.0.prompt", Like("Count")),
        "max_completion_tokens": Proof(5, f"{PARAMS}.max_tokens", 5),
        "logprobs": Proof(True, _TOKEN, "Hello"),
        "top_logprobs": Proof(2, f"{PARAMS}.logprobs", 2, beside={"logprobs": True}),
        "tools": Proof([tool("add")], "jobs.0.prompt", Like('"name": ?"add"')),
        "tool_choice": Proof("required", GRAMMAR, Some(), beside=_TOOLS, says=CALLS),
        "parallel_tool_calls": Proof(False, f"{_CHOICE}.message.tool_calls.#", 1, beside=_TOOLS, says=CALLS),
        "reasoning_effort": Proof("high", "jobs.0.prompt", THINK),
        "enable_thinking": Proof(True, "jobs.0.prompt", THINK),
        "thinking": Proof({"type": "enabled"}, "jobs.0.prompt", THINK),
        "reasoning": Proof({"effort": "high"}, "jobs.0.prompt", THINK),
        "include_reasoning": Proof(False, f"{_CHOICE}.message.reasoning_content", None, says=_THOUGHT),
        "chat_template_kwargs": Proof({"enable_thinking": True}, "jobs.0.prompt", THINK),
        "continue_final_message": Proof(
            False, "jobs.0.prompt", Like("assistant\n$"), beside={"messages": [*_MESSAGES, _ASSISTANT]}
        ),
        "add_generation_prompt": Proof(False, "jobs.0.prompt", Like("<.im_end.>\n$")),
        "thinking_token_budget": Proof(100),
        "thinking_budget": Proof(100),
        "modalities": Proof(["text", "audio"]),
        "verbosity": Proof("low"),
        "functions": Proof([{"name": "add"}]),
        "function_call": Proof("auto"),
        "audio": Proof({"voice": "alloy", "format": "mp3"}),
        "prediction": Proof({"type": "content", "content": "Hello"}),
        "web_search_options": Proof({}),
        "moderation": Proof({"model": "m"}),
        "chat_template": Proof("{{ messages }}"),
        "documents": Proof([{"text": "a"}]),
        "echo": Proof(True),
        "add_special_tokens": Proof(True),
    },
)

_LOGPROBS = f"{_CHOICE}.logprobs.tokens.0"

completions = Endpoint(
    "Completions",
    "/v1/completions",
    COMPLETIONS,
    {"model": "demo", "prompt": "Say hello to them all."},
    {
        **common(f"{_CHOICE}.text", Proof(True, _LOGPROBS, Like("^token_id:"), beside={"logprobs": 0})),
        "prompt": Proof("Count.", "jobs.0.prompt", "Count."),
        "logprobs": Proof(2, f"{PARAMS}.logprobs", 2),
        "best_of": Proof(3, "jobs.#", 3),
        "add_special_tokens": Proof(False, "jobs.0.prompt", Unlike("^<.im_start.>"), beside={"model": MARKED}),
        "echo": Proof(True, f"{_CHOICE}.text", "Say hello to them all.Hello there, friend!"),
        "suffix": Proof("The end.", "answer.error.param", "suffix"),
    },
)
