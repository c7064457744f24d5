"""MODEL_SPEC: what it can say, and words for what it cannot."""

import pytest

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import ModelSpec, parse_spec


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("demo", ModelSpec("demo")),
        ("Qwen/Qwen3-0.6B", ModelSpec("Qwen/Qwen3-0.6B")),
        ("Qwen/Qwen3-0.6B@main", ModelSpec("Qwen/Qwen3-0.6B", "main")),
        ("/models/mine,name=mine,name=default", ModelSpec("/models/mine", None, ["mine", "default"])),
        ("a/b@v1,replicas=2,name=x", ModelSpec("a/b", "v1", ["x"], 2)),
    ],
)
def test_what_it_says(text: str, wanted: ModelSpec) -> None:
    assert parse_spec(text) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "name is missing"),
        ("@main", "name is missing"),
        ("a@", "revision"),
        ("a,quantization=int8", "'quantization' is not supported yet"),
        ("a,file=x.gguf", "'file' is not supported yet"),
        ("a,pin", "'pin' is not supported yet"),
        ("a,colour=red", "unknown key 'colour'"),
        ("a,name", "'name' needs a value"),
        ("a,name=", "'name' needs a value"),
        ("a,replicas=0", "replicas"),
        ("a,replicas=two", "replicas"),
        ("a,replicas=²", "replicas"),
    ],
)
def test_words_for_what_it_cannot_say(text: str, words: str) -> None:
    with pytest.raises(SetupError, match=words):
        parse_spec(text)
