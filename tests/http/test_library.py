"""Tokenizers of Hub models: at exactly the card's commit, without the weights, and without holding up the front."""

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import Hub, point_at
from huggingface_hub import constants
from models import CARD, DEMO

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import Card
from tokenyard.http.library import LoadedTokenizer, TokenizerLibrary


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    shutil.copytree(DEMO, tmp_path / "models" / "org" / "tiny")
    with Hub(tmp_path / "models") as hub:
        point_at(hub, tmp_path / "cache", monkeypatch)
        yield hub


def card(hub: Hub) -> Card:
    return CARD._replace(source="org/tiny", commit=hub.repos["org/tiny"].commit)


def load(card: Card) -> LoadedTokenizer:
    return asyncio.run(TokenizerLibrary().get(card))


def test_tokenizers_of_models_that_are_down_are_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenyard.http.library.MAX_OTHERS", 2)
    cards = [CARD._replace(commit=str(number)) for number in range(5)]

    async def run() -> list[bool]:
        library = TokenizerLibrary()
        for one in cards:
            await library.get(one)
        library.at_hand(cards[1])
        library.forget_all_but([cards[0]])
        return [library.at_hand(one) is not None for one in cards]

    assert asyncio.run(run()) == [True, True, False, False, True]


def test_all_but_the_weights_is_fetched_and_meanwhile_the_front_goes_on(hub: Hub) -> None:
    hub.repos["org/tiny"].wait_s = 0.2

    async def run() -> tuple[LoadedTokenizer, float]:
        task = asyncio.create_task(TokenizerLibrary().get(card(hub)))
        worst, last = 0.0, time.monotonic()
        while not task.done():
            await asyncio.sleep(0.005)
            worst, last = max(worst, time.monotonic() - last), time.monotonic()
        return task.result(), worst

    begun_s = time.monotonic()
    loaded, worst_gap_s = asyncio.run(run())
    assert time.monotonic() - begun_s > 0.6, "the Hub was not slow"
    assert worst_gap_s < 0.5
    assert loaded.template == (Path(DEMO) / "chat_template.jinja").read_text()
    assert loaded.backend.decode(loaded.backend.encode("Hello").ids) == "Hello"
    assert hub.fetched("model.safetensors") == 0
    assert hub.fetched("tokenizer.json") == 1


def test_it_is_the_cards_commit_whatever_was_pushed_since(hub: Hub) -> None:
    old = card(hub)
    load(old)
    template = hub.repos["org/tiny"].folder / "chat_template.jinja"
    template.write_text("{# another #}")
    assert load(old).template == (Path(DEMO) / "chat_template.jinja").read_text()
    assert load(card(hub)).template == "{# another #}"


def test_without_the_hub_the_cache_serves(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    one = card(hub)
    load(one)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert load(one).template
    with pytest.raises(TokenyardError, match=r"'org/tiny' is not in the local Hub cache, and .* cannot be reached"):
        load(one._replace(commit="0" * 40))
