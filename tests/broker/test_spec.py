"""MODEL_SPEC: what it can say, and words for what it cannot."""

from pathlib import Path

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
        ("demo@v9", "the bundled model has no revisions; leave out @v9"),
    ],
)
def test_words_for_what_it_cannot_say(text: str, words: str) -> None:
    with pytest.raises(SetupError, match=words):
        parse_spec(text)


@pytest.mark.parametrize("name", ["plain", "at@v1", "a,b", "x,name=y", "all@1,2=3"])
def test_a_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    assert parse_spec(str(directory)) == ModelSpec(str(directory))
    assert parse_spec(f"{directory},name=n,replicas=2") == ModelSpec(str(directory), None, ["n"], 2)
    assert parse_spec(str(directory)).called == [name]


def test_a_directory_has_no_revisions(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="a directory, has no revisions; leave out @v9"):
        parse_spec(f"{tmp_path}@v9")


def test_what_a_model_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_spec("demo").called == ["tokenyard-demo"]
    assert parse_spec("org/model@v1").called == ["org/model"]
    assert parse_spec("org/model,name=a,name=b").called == ["a", "b"]
    monkeypatch.chdir(tmp_path)
    assert parse_spec(".").called == [tmp_path.name]
