"""What checks say of values: short, however large the value is."""

import pytest

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.checks import boolean, number


@pytest.mark.parametrize(
    ("value", "shown"),
    [("yes", "'yes'"), (None, "None"), ([1, 2], "[1, 2]"), ({"a": [1]}, "{'a': [1]}"), (1 << 40, str(1 << 40))],
)
def test_a_short_value_is_shown_as_it_is(value: object, shown: str) -> None:
    with pytest.raises(TokenyardError, match="must be true or false") as caught:
        boolean(value, "stream")
    assert str(caught.value).endswith(f"not {shown}")


@pytest.mark.parametrize("value", ["x" * 1_000_000, [1] * 1_000_000, {str(key): [key] for key in range(100_000)}])
def test_a_large_value_is_shown_in_part(value: object) -> None:
    with pytest.raises(TokenyardError) as caught:
        number(0, 2)(value, "temperature")
    assert len(str(caught.value)) < 200
