"""Which format is chosen for a model by name."""

import pytest

from tokenyard.broker.errors import SetupError
from tokenyard.http.formats.names import FORMAT_NAMES, chosen, read_choices
from tokenyard.http.formats.registry import FORMATS


def test_the_names_are_those_of_the_formats() -> None:
    assert list(FORMAT_NAMES) == sorted(FORMATS)


def test_a_model_of_its_own_goes_before_all_models() -> None:
    choices = read_choices(["hermes", "org/a=kimi", "x=y=glm"])
    assert chosen(choices, ["org/a", "a"]) == "kimi"
    assert chosen(choices, ["x=y"]) == "glm"
    assert chosen(choices, ["b"]) == "hermes"
    assert chosen(read_choices(["a=kimi"]), ["b"]) is None


@pytest.mark.parametrize("text", ["qwen9", "a=", "", 3, "kimi=a"])
def test_other_names_are_refused(text: object) -> None:
    with pytest.raises(SetupError, match=r"one of deepseek-v3, .*MODEL=FORMAT"):
        read_choices([text])
