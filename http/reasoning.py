"""What a request wishes of the model's reasoning, in the words of several clients, and how its template is told.

Knows no tokens; what a model can do is read off its chat template.
"""

import re
from typing import Any

from tokenyard.http.checks import boolean, described, mapping, string
from tokenyard.http.errors import invalid
from tokenyard.http.formats.registry import Speech

_TOGGLES = {
    "enable_thinking": r"\benable_thinking\b",
    "thinking": r"\bthinking is (not )?defined|\b(not|if) thinking\b",
}
"""Variables of chat templates that turn thinking on and off, and how a template that has one reads."""

effort = string(1, 32)
_router = mapping({"effort": effort, "enabled": boolean, "exclude": boolean})


@described({"anyOf": [boolean.schema, {"type": "object", "properties": {"type": {"enum": ["enabled", "disabled"]}}}]})
def thinking(value: Any, param: str) -> bool:
    """true or false, or Z.ai's and DeepSeek's object whose type is enabled or disabled."""
    if type(value) is dict:
        kind = value.get("type")
        if kind not in ("enabled", "disabled"):
            invalid(f"{param}.type", "must be 'enabled' or 'disabled'")
        return bool(kind == "enabled")
    return bool(boolean(value, param))


@described(_router.schema)
def reasoning(value: Any, param: str) -> dict[str, Any]:
    """OpenRouter's object: effort, enabled, exclude."""
    if type(value) is dict and value.get("max_tokens") is not None:
        invalid(f"{param}.max_tokens", "is not supported: a thought has no limit of its own")
    wishes: dict[str, Any] = _router(value, param)
    return wishes


def merge_wishes(values: dict[str, Any]) -> None:
    """Bring a body's fields to those of ChatRequest. Raises TokenyardError naming one that says the opposite."""
    wishes = values.pop("reasoning", {})
    said: dict[str, bool] = {name: values.pop(name) for name in ("enable_thinking", "thinking") if name in values}
    if "enabled" in wishes:
        said["reasoning.enabled"] = wishes["enabled"]
    for param, on in said.items():
        if values.setdefault("think", on) != on:
            invalid(param, f"says the opposite of {values['think_param']}")
        values.setdefault("think_param", param)
    if "effort" in wishes and values.setdefault("reasoning_effort", wishes["effort"]) != wishes["effort"]:
        invalid("reasoning.effort", "says something else than reasoning_effort")
    if wishes.get("exclude"):
        values["include_reasoning"] = False


def template_kwargs(template: str, speech: Speech, on: bool | None, param: str, level: str | None) -> dict[str, Any]:
    """What tells the template whether to think (`on`, which the field `param` asked for) and how much (`level`).

    Raises TokenyardError naming the field that this model cannot follow.
    """
    kwargs = {} if on is None else _toggled(template, speech, on, param)
    if level is None:
        return kwargs
    if "reasoning_effort" in template:
        return kwargs | {"reasoning_effort": level}
    return _toggled(template, speech, level != "none", "reasoning_effort") | kwargs


def _toggled(template: str, speech: Speech, on: bool, param: str) -> dict[str, Any]:
    toggle = next((name for name, reads in _TOGGLES.items() if re.search(reads, template)), "")
    if toggle:
        return {toggle: on}
    thinks = speech.thought is not None or (speech.format is not None and bool(speech.format.turn))
    if on or thinks:
        words = "its template does not know it" if on else "its template cannot keep it from thinking"
        invalid(param, f"cannot be followed by this model: {words}")
    return {}
