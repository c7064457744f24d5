"""Claude Code's first request, as version 2.1.197 sends it: every field, header and shape of it, with shorter words.

Recorded with `claude -p "Say hello."`. Of its 24 tools two are kept, with their schemas.
"""

from typing import Any

PATH = "/v1/messages?beta=true"

HEADERS = {
    "accept": "application/json",
    "anthropic-beta": (
        "claude-code-20250219,interleaved-thinking-2025-05-14,thinking-token-count-2026-05-13,"
        "context-management-2025-06-27,prompt-caching-scope-2026-01-05,mid-conversation-system-2026-04-07,"
        "effort-2025-11-24"
    ),
    "anthropic-dangerous-direct-browser-access": "true",
    "anthropic-version": "2023-06-01",
    "content-type": "application/json",
    "user-agent": "claude-cli/2.1.197 (external, sdk-cli)",
    "x-api-key": "dummy",
    "x-app": "cli",
    "x-claude-code-session-id": "dffaa0b5-6826-4e76-8143-836c1ef51211",
    "x-stainless-helper-method": "stream",
    "x-stainless-retry-count": "0",
    "x-stainless-timeout": "600",
}

CACHED = {"cache_control": {"type": "ephemeral"}}


def schema(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


TOOLS: list[dict[str, Any]] = [
    {
        "name": "Agent",
        "description": "Starts another agent for a task of several steps.",
        "input_schema": schema(
            ["description", "prompt"],
            description={"description": "The task in 3 to 5 words", "type": "string"},
            prompt={"description": "The task", "type": "string"},
            model={"description": "The agent's model", "type": "string", "enum": ["sonnet", "opus", "haiku"]},
            run_in_background={"description": "Return at once", "type": "boolean"},
        ),
    },
    {
        "name": "ReportFindings",
        "description": "Reports what a review found, as a list.",
        "input_schema": schema(
            ["findings"],
            findings={
                "type": "array",
                "maxItems": 32,
                "items": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "string"},
                        "line": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9007199254740991},
                    },
                    "required": ["file"],
                    "additionalProperties": False,
                },
            },
        ),
    },
]

REQUEST: dict[str, Any] = {
    "model": "demo",
    "messages": [
        {
            "role": "user",
            "content": [
                {
                    "type": "text",
                    "text": "<system-reminder>\n# currentDate\nToday's date is 2026-11-27.\n</system-reminder>\n\n",
                },
                {"type": "text", "text": "Say hello.", **CACHED},
            ],
        },
        {"role": "system", "content": "Available agent types for the Agent tool:\n- claude: for any task."},
    ],
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.1c0; cc_entrypoint=sdk-cli;"},
        {"type": "text", "text": "You are an agent.", **CACHED},
        {"type": "text", "text": "\nYou help users with software.", **CACHED},
    ],
    "tools": TOOLS,
    "metadata": {"user_id": '{"device_id":"c18e","account_uuid":"","session_id":"dffaa0b5"}'},
    "max_tokens": 32000,
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "stream": True,
}
