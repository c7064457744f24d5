"""Every field of every table does what the table says: docs/api.md is made of these proofs."""

from collections.abc import Iterator

import api_page
import pytest
from proofs.everything import ENDPOINTS
from proofs.harness import Endpoint, Fronts, check

CASES = [(endpoint, name) for endpoint in ENDPOINTS for name in endpoint.table]


@pytest.fixture(scope="module")
def fronts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fronts]:
    fronts = Fronts(tmp_path_factory.mktemp("fronts"))
    yield fronts
    fronts.close()


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda one: one.title)
def test_every_field_has_a_proof(endpoint: Endpoint) -> None:
    assert endpoint.proofs.keys() == endpoint.table.keys()


@pytest.mark.parametrize(("endpoint", "name"), CASES, ids=[f"{one.title}-{name}" for one, name in CASES])
def test_a_field_does_what_its_table_says(endpoint: Endpoint, name: str, fronts: Fronts) -> None:
    check(fronts, endpoint, name, endpoint.proofs[name])


def test_the_page_is_made_of_the_proofs() -> None:
    assert api_page.PATH.read_text() == api_page.page(), (
        "run: PYTHONPATH=tests/support python tests/support/api_page.py"
    )
