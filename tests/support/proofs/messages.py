"""Proofs of /v1/messages."""

from typing import Any

from proofs.harness import Endpoint, Like, Proof, Some, Unlike
from proofs.shared import CALLS, GRAMMAR, OBJECT, PARAMS, SAMPLING, SSE, THINK

from tokenyard.http.anthropic.fields import MESSAGES

_USER = {"role": "user", "content": "Say hello."}
_TOOL = {"name": "add", "input_schema": OBJECT}
_FORMAT = {"type": "json_schema", "schema": OBJECT}


def _turn(number: int) -> list[dict[str, Any]]:
    """A thought, a call, and its result."""
    call_id = f"call_{number}"
    thought = {"type": "thinking", "thinking": f"Thought {number}", "signature": ""}
    call = {"type": "tool_use", "id": call_id, "name": "add", "input": {}}
    result = {"type": "tool_result", "tool_use_id": call_id, "content": "3"}
    return [{"role": "assistant", "content": [thought, call]}, {"role": "user", "content": [result]}]


messages = Endpoint(
    "Anthropic's messages",
    "/v1/messages",
    MESSAGES,
    {"model": "demo", "messages": [_USER], "max_tokens": 50},
    {
        **SAMPLING,
        "model": Proof("alias", "answer.model", "alias"),
        "max_tokens": Proof(5, f"{PARAMS}.max_tokens", 5),
        "stream": Proof(True, "type", SSE),
        "cache_salt": Proof("mine", f"{PARAMS}.cache_salt", "mine"),
        "priority": Proof(5, "jobs.0.priority", 5),
        "messages": Proof([{"role": "user", "content": "Count."}], "jobs.0.prompt", Like("Count")),
        "system": Proof("Be brief.", "jobs.0.prompt", Like("Be brief")),
        "stop_sequences": Proof(["friend"], "answer.stop_sequence", "friend"),
        "tools": Proof([_TOOL], "jobs.0.prompt", Like('"name": ?"add"')),
        "tool_choice": Proof({"type": "any"}, GRAMMAR, Some(), beside={"tools": [_TOOL]}, says=CALLS),
        "mcp_servers": Proof(
            [{"type": "url", "name": "unknown", "url": "https://example.com"}],
            "answer.error.message",
            Like("mcp_servers"),
        ),
        "thinking": Proof({"type": "enabled", "budget_tokens": 1024}, "jobs.0.prompt", THINK),
        "output_config": Proof({"format": _FORMAT}, f"{GRAMMAR}.kind", "json_schema"),
        "output_format": Proof(_FORMAT, f"{GRAMMAR}.kind", "json_schema"),
        "context_management": Proof(
            {"edits": [{"type": "clear_thinking_20251015"}]},
            "jobs.0.prompt",
            Unlike("Thought 1"),
            beside={"messages": [_USER, *_turn(1), *_turn(2)]},
        ),
        "metadata": Proof({"user_id": "me"}),
        "cache_control": Proof({"type": "ephemeral"}),
        "service_tier": Proof("auto"),
        "speed": Proof("fast"),
        "inference_geo": Proof("eu"),
        "diagnostics": Proof({}),
        "billing_policy": Proof({}),
        "user_profile_id": Proof("me"),
        "workspace_id": Proof("ws"),
        "betas": Proof(["x"]),
        "fallbacks": Proof("default"),
        "fallback_credit_token": Proof("x"),
        "container": Proof("c_1"),
        "thread": Proof({"type": "create"}),
        "compaction": Proof({}),
    },
)
