"""Thoughts behind a seal: they come back as they were, and what others sealed is refused."""

import pytest

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.seals import SEAL, seal, unseal


@pytest.mark.parametrize("thought", ["", "hm 🤖", "a" * 10_000])
def test_a_thought_comes_back(thought: str) -> None:
    assert unseal(seal(thought), "x") == thought


@pytest.mark.parametrize("sealed", ["", "gAAAAABo", f"{SEAL}%", f"{SEAL}/w=="])
def test_what_others_sealed_is_refused_by_name(sealed: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        unseal(sealed, "input.0.encrypted_content")
    assert caught.value.param == "input.0.encrypted_content"
