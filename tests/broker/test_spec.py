"""MODEL_SPEC: what it can say, words for what it cannot, and that it is written as it is read."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import KEYS, OPTIONS, ModelSpec, format_spec, parse_spec

ENGINE_SAMPLE = {
    "quantization": "int8",
    "dtype": "bfloat16",
    "max_model_len": 512,
    "kv_memory": "40%",
    "speculate": "ngram:4",
}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("demo", ModelSpec("demo")),
        ("Qwen/Qwen3-0.6B", ModelSpec("Qwen/Qwen3-0.6B")),
        ("Qwen/Qwen3-0.6B@main", ModelSpec("Qwen/Qwen3-0.6B", "main")),
        ("/models/mine,name=mine,name=default", ModelSpec("/models/mine", None, ["mine", "default"])),
        ("a/b@v1,replicas=2,name=x", ModelSpec("a/b", "v1", ["x"], 2)),
        ("a/b,file=q/x.GGUF,pin", ModelSpec("a/b", file="q/x.GGUF", pin=True)),
        ("a/b,pin=false,eager,compile=false", ModelSpec("a/b", engine={"eager": True, "compile": False})),
        (
            "a/b,quantization=int8,dtype=bfloat16,max_model_len=512,kv_memory=40%,speculate=ngram:4",
            ModelSpec("a/b", engine=ENGINE_SAMPLE),
        ),
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
        ("a,colour=red", "unknown key 'colour'; the keys are name, replicas, file, pin, dtype"),
        ("a,name", "name: a value is missing"),
        ("a,name=", "name: a value is missing"),
        ("a,replicas=0", "replicas: it must be at least 1"),
        ("a,replicas=two", "replicas: a whole number belongs here, not 'two'"),
        ("a,replicas=²", "replicas: a whole number"),
        ("a,replicas=" + "9" * 5000, "replicas: a whole number"),
        ("a,replicas=2,replicas=2", "'replicas' is given twice"),
        ("demo@v9", "the bundled model has no revisions; leave out @v9"),
        ("a,pin=maybe", "pin: true or false belongs here, not 'maybe'"),
        ("a,quantization=int3", "quantization: choose one of off, int8, int4, fp8, bnb-8bit, bnb-4bit, not 'int3'"),
        ("a,dtype=float8", "dtype: choose one of auto, float32"),
        ("a,max_model_len=0", "max_model_len: it must be at least 1, not 0"),
        ("a,kv_memory=lots", "kv_memory: give bytes"),
        ("a,kv_memory=101%", "kv_memory: give bytes"),
        ("a,speculate=ngram:17", "speculate: give ngram:K, K tokens to guess, from 1 to 16"),
        ("a,file=x.bin", "file: 'x.bin' does not end in .gguf"),
        ("a,file=../x.gguf", "file: '../x.gguf' must lie in"),
        ("a,file=/x.gguf", "file: '/x.gguf' must lie in"),
        ("demo,file=x.gguf", "file: the bundled model is no GGUF"),
    ],
)
def test_words_for_what_it_cannot_say(text: str, words: str) -> None:
    with pytest.raises(SetupError, match=words):
        parse_spec(text)


@pytest.mark.parametrize("name", ["plain", "at@v1", "a,b", "x,name=y", "all@1,2=3", "m.gguf"])
def test_a_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    assert parse_spec(str(directory)) == ModelSpec(str(directory))
    assert parse_spec(f"{directory},name=n,replicas=2") == ModelSpec(str(directory), None, ["n"], 2)
    assert parse_spec(str(directory)).called == [name]


@pytest.mark.parametrize("name", ["m.gguf", "m@v1.GGUF", "m,pin,name=y.gguf"])
def test_a_gguf_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.touch()
    assert parse_spec(f"{path},pin") == ModelSpec(str(path), pin=True)
    assert parse_spec(str(path)).called == [path.stem]
    with pytest.raises(SetupError, match="file: the source is a file already"):
        parse_spec(f"{path},file=x.gguf")


def test_a_directory_and_a_file_have_no_revisions(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="a directory, has no revisions; leave out @v9"):
        parse_spec(f"{tmp_path}@v9")
    (tmp_path / "m.gguf").touch()
    with pytest.raises(SetupError, match="a file, has no revisions"):
        parse_spec(f"{tmp_path}/m.gguf@v1")


def test_what_a_model_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_spec("demo").called == ["tokenyard-demo"]
    assert parse_spec("org/model@v1").called == ["org/model"]
    assert parse_spec("org/model,file=q8.gguf").called == ["org/model"]
    assert parse_spec("org/model,name=a,name=b").called == ["a", "b"]
    monkeypatch.chdir(tmp_path)
    assert parse_spec(".").called == [tmp_path.name]


# What is written is read again

WORD = st.text(st.characters(exclude_characters=",", exclude_categories=("Cs",)), min_size=1)
PART = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
ENGINE: dict[str, st.SearchStrategy[Any]] = {
    "dtype": st.sampled_from(["auto", "float32", "bfloat16", "float16"]),
    "quantization": st.sampled_from(["off", "int8", "int4", "fp8", "bnb-8bit", "bnb-4bit"]),
    "kv_memory": st.sampled_from(["2GiB", "40%", "1.5 gb", "100", "0.5%"]),
    "speculate": st.sampled_from(["off", "ngram:1", "ngram:16"]),
    **{key: st.integers(1, 10**18 - 1) for key, option in OPTIONS.items() if option.kind is int},
    **{key: st.booleans() for key, option in OPTIONS.items() if option.kind is bool},
}
SPECS = st.builds(
    ModelSpec,
    st.builds("{}/{}".format, PART, PART),
    st.none() | WORD,
    st.lists(WORD, max_size=3),
    st.none() | st.integers(1, 10**18 - 1),
    st.none() | st.builds("{}/{}.gguf".format, PART, PART),
    st.booleans(),
    st.fixed_dictionaries({}, optional=ENGINE),
)


@given(SPECS)
def test_what_is_written_is_read_again(spec: ModelSpec) -> None:
    assert set(ENGINE) == set(OPTIONS)
    assert parse_spec(format_spec(spec)) == spec


@given(st.lists(st.sampled_from([*KEYS, "org/m", "demo", ",", "=", "@", "1", "true", "x.gguf", "int8", "é"]) | WORD))
def test_whatever_is_read_can_be_written(parts: list[str]) -> None:
    text = "".join(parts)
    try:
        spec = parse_spec(text)
    except SetupError:
        return
    assert parse_spec(format_spec(spec)) == spec
