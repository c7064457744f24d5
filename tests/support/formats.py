"""The same two calls as text, in every format of tool calls."""

import json

ARGUMENTS = {"a": 12, "note": 'say "hi" \\ there\n<b>', "more": [1, {"x": "y"}]}
AS_JSON = json.dumps(ARGUMENTS)
CODER = """<tool_call>
<function=add>
<parameter=a>
12
</parameter>
<parameter=note>
say "hi" \\ there
<b>
</parameter>
<parameter=more>
[1, {"x": "y"}]
</parameter>
</function>
</tool_call>"""
CODER_NOW = "<tool_call>\n<function=now>\n</function>\n</tool_call>"
GLM = (
    '<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>12</arg_value>\n<arg_key>note</arg_key>\n<arg_value>say "hi" '
    "\\ there\n<b></arg_value>\n<arg_key>more</arg_key>\n"
    '<arg_value>[1, {"x": "y"}]</arg_value>\n</tool_call>'
)
DEEPSEEK = "<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>"
V3 = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}\n```json\n{}\n```<｜tool▁call▁end｜>"
V31 = "<｜tool▁call▁begin｜>{}<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
KIMI = "<|tool_calls_section_begin|>{}<|tool_calls_section_end|>"
KIMI_CALL = "<|tool_call_begin|>functions.{}:{}<|tool_call_argument_begin|>{}<|tool_call_end|>"
HARMONY = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}<|call|>"
GEMMA = '<|tool_call>call:add{a:12,note:<|"|>say "hi" \\ there\n<b><|"|>,more:[1,{x:<|"|>y<|"|>}]}<tool_call|>'
PYTHON = """[add(a=12, note='say "hi" \\\\ there\\n<b>', more=[1, {"x": "y"}]), now()]"""

CALLS: dict[str, str] = {
    "hermes": f'<tool_call>\n{{"name": "add", "arguments": {AS_JSON}}}\n</tool_call>\n'
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    "qwen-coder": f"{CODER}\n{CODER_NOW}",
    "glm": f"{GLM}\n<tool_call>now\n</tool_call>",
    "llama-json": f'{{"name": "add", "parameters": {AS_JSON}}}; {{"name": "now", "parameters": {{}}}}',
    "pythonic": PYTHON,
    "mistral-v3": f'[TOOL_CALLS] [{{"name": "add", "arguments": {AS_JSON}}}, {{"name": "now", "arguments": {{}}}}]',
    "mistral-v11": f"[TOOL_CALLS]add[ARGS]{AS_JSON}[TOOL_CALLS]now[ARGS]{{}}",
    "deepseek-v3": DEEPSEEK.format(V3.format("add", AS_JSON) + "\n" + V3.format("now", "{}")),
    "deepseek-v3.1": DEEPSEEK.format(V31.format("add", AS_JSON) + V31.format("now", "{}")),
    "kimi": KIMI.format(KIMI_CALL.format("add", 0, AS_JSON) + KIMI_CALL.format("now", 1, "{}")),
    "harmony": HARMONY.format("add", AS_JSON) + "<|start|>assistant" + HARMONY.format("now", "{}"),
    "gemma4": GEMMA + "<|tool_call>call:now{}<tool_call|>",
}
"""The same two calls in every format."""
