"""Prefix keys: equal exactly where the tokens before, and all that shapes their keys and values, are equal."""

from hypothesis import given
from hypothesis import strategies as st

from tokenyard.broker.codec import pack_ids
from tokenyard.broker.prefix import KEY_BYTES, chain, next_key, root_key, salted

ids = st.lists(st.integers(0, 9), max_size=40)
text = st.text(max_size=4)
ROOT = root_key("commit", "float32")


@given(ids, st.integers(1, 8))
def test_one_key_for_each_full_block_each_chained_to_the_last(tokens: list[int], block_size: int) -> None:
    keys = chain(ROOT, pack_ids(tokens), block_size)
    assert len(keys) == len(tokens) // block_size
    previous = ROOT
    for index, key in enumerate(keys):
        assert len(key) == KEY_BYTES
        assert key == next_key(previous, pack_ids(tokens[index * block_size : (index + 1) * block_size]))
        previous = key


@given(ids, ids, st.integers(1, 4))
def test_keys_are_equal_as_far_as_the_tokens_are(one: list[int], other: list[int], block_size: int) -> None:
    for index, (a, b) in enumerate(
        zip(chain(ROOT, pack_ids(one), block_size), chain(ROOT, pack_ids(other), block_size), strict=False)
    ):
        end = (index + 1) * block_size
        assert (a == b) == (one[:end] == other[:end])


@given(st.tuples(text, text, text), st.tuples(text, text, text))
def test_roots_differ_in_any_part(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    """Also where the parts run into one another: ("ab", "c") is not ("a", "bc")."""
    assert (root_key(*one) == root_key(*other)) == (one == other)


@given(text, text)
def test_salts_keep_chains_apart_and_an_empty_one_changes_nothing(one: str, other: str) -> None:
    assert (salted(ROOT, one) == salted(ROOT, other)) == (one == other)
    assert salted(ROOT, "") == ROOT


@given(ids, st.integers(1, 4), st.integers(0, 12))
def test_a_limit_only_cuts(tokens: list[int], block_size: int, limit: int) -> None:
    packed = pack_ids(tokens)
    assert chain(ROOT, packed, block_size, limit) == chain(ROOT, packed, block_size)[:limit]


def test_keys_are_what_they_were() -> None:
    """Workers of one version must understand fronts of another: a changed hash is a changed protocol."""
    (key,) = chain(root_key("c", "d"), pack_ids([1, 2]), 2)
    assert key.hex() == "90e1c507a3ba71509f1e5fcdf8795e92"
