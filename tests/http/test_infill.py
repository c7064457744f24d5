"""Filling in the middle: each family's tokens, in its order, and what ends it."""

import asyncio
from typing import Any, cast

import pytest
from models import CARD, demo_tokenizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.library import LoadedTokenizer
from tokenyard.http.plans import make_plans
from tokenyard.http.prompt import Prompt, Prompter
from tokenyard.http.schemas import parse_completion


def fim_tokenizer(*special: str, bos: bool = False) -> LoadedTokenizer:
    """Words, and these tokens."""
    words = {word: at for at, word in enumerate(["a", "b", "c", "d", "[UNK]"])}
    backend = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_special_tokens({"additional_special_tokens": [*special, "<s>"]})
    if bos:
        begin = ("<s>", tokenizer.convert_tokens_to_ids("<s>"))
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[begin])
    return LoadedTokenizer(tokenizer)


def filled(loaded: LoadedTokenizer, prompt: Any = "a b", **fields: Any) -> Prompt:
    request = parse_completion({"model": "demo", "prompt": prompt, "suffix": "c d", **fields})
    (made,) = asyncio.run(Prompter(CARD._replace(vocab_size=30), loaded).of_completion(request))
    return made


@pytest.mark.parametrize(
    ("special", "expected", "ends"),
    [
        (
            ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|endoftext|>", "<|file_sep|>"],
            "<|fim_prefix|> a b <|fim_suffix|> c d <|fim_middle|>",
            ["<|endoftext|>", "<|file_sep|>"],
        ),
        (
            ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<|endoftext|>"],
            "<fim_prefix> a b <fim_suffix> c d <fim_middle>",
            ["<|endoftext|>"],
        ),
        (["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"], "▁<PRE> a b ▁<SUF> c d ▁<MID>", ["▁<EOT>"]),
        (
            ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
            "<｜fim▁begin｜> a b <｜fim▁hole｜> c d <｜fim▁end｜>",
            [],
        ),
        (["[PREFIX]", "[SUFFIX]"], "[SUFFIX] c d [PREFIX] a b", []),
    ],
)
def test_each_familys_way_to_fill_the_middle(special: list[str], expected: str, ends: list[str]) -> None:
    loaded = fim_tokenizer(*special)
    prompt = filled(loaded)
    assert loaded.chat.convert_ids_to_tokens(prompt.ids) == expected.split()
    assert loaded.chat.convert_ids_to_tokens(prompt.end_ids) == ends
    assert filled(loaded, [0, 1]).ids == prompt.ids


def test_what_begins_any_text_begins_a_middle_too() -> None:
    loaded = fim_tokenizer("▁<PRE>", "▁<SUF>", "▁<MID>", bos=True)
    tokens = loaded.chat.convert_ids_to_tokens(filled(loaded).ids)
    assert tokens == ["<s>", "▁<PRE>", "a", "b", "▁<SUF>", "c", "d", "▁<MID>"]
    tokens = loaded.chat.convert_ids_to_tokens(filled(loaded, add_special_tokens=False).ids)
    assert tokens == ["▁<PRE>", "a", "b", "▁<SUF>", "c", "d", "▁<MID>"]


def test_the_middles_end_stops_the_job() -> None:
    loaded = fim_tokenizer("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<|endoftext|>")
    end = cast(int, loaded.chat.convert_tokens_to_ids("<|endoftext|>"))
    for ignored in (False, True):
        fields = {"model": "demo", "prompt": "a", "suffix": "c", "ignore_eos": ignored}
        request = parse_completion(fields)
        prompter = Prompter(CARD._replace(vocab_size=30, eos_token_ids=[2]), loaded)
        (plan,) = make_plans(request, prompter, asyncio.run(prompter.of_completion(request)))
        assert plan.job.params.stop_token_ids == ([] if ignored else [2, end])


def test_other_models_refuse_a_suffix_by_name() -> None:
    with pytest.raises(TokenyardError, match="suffix is not supported with demo") as caught:
        filled(demo_tokenizer())
    assert caught.value.param == "suffix"
    assert filled(demo_tokenizer(), suffix="").ids


def test_text_keeps_its_beginning_when_it_is_cut() -> None:
    loaded = fim_tokenizer(bos=True)
    request = parse_completion({"model": "demo", "prompt": "a b c d", "truncate_prompt_tokens": 3})
    (made,) = asyncio.run(Prompter(CARD._replace(vocab_size=30), loaded).of_completion(request))
    assert loaded.chat.convert_ids_to_tokens(made.ids) == ["<s>", "c", "d"]
