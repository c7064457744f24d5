"""Names of the formats of tool calls, for whoever chooses one: light enough to import anywhere."""

from collections.abc import Iterable

from tokenyard.broker.errors import SetupError

FORMAT_NAMES = (
    "deepseek-v3",
    "deepseek-v3.1",
    "gemma4",
    "glm",
    "harmony",
    "hermes",
    "kimi",
    "llama-json",
    "mistral-v11",
    "mistral-v3",
    "pythonic",
    "qwen-coder",
)


def read_choices(texts: Iterable[object]) -> dict[str, str]:
    """Format by model from texts `FORMAT`, for all models that have none of their own, or `MODEL=FORMAT`.

    Raises SetupError with the names that there are.
    """
    choices: dict[str, str] = {}
    for text in texts:
        model, _, name = text.rpartition("=") if isinstance(text, str) else ("", "", text)
        if name not in FORMAT_NAMES:
            raise SetupError(f"a tool format is one of {', '.join(FORMAT_NAMES)}, or MODEL=FORMAT; not {text!r}")
        choices[model] = str(name)
    return choices


def chosen(choices: dict[str, str], names: Iterable[str]) -> str | None:
    """The format chosen for a model of these names; None leaves it to the model's template."""
    return next((choices[name] for name in names if name in choices), choices.get(""))
