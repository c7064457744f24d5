"""The digest that names a model directory's content."""

import os
from pathlib import Path

import pytest

from tokenyard.workers import files
from tokenyard.workers.files import digest


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files above 1,000 bytes are sampled."""
    monkeypatch.setattr(files, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(files, "SAMPLE_BYTES", 16)


def test_names_sizes_and_content_count_and_hidden_files_do_not(tmp_path: Path) -> None:
    seen = {digest(tmp_path)}
    for name, content in (("a", b"1"), ("a", b"2"), ("b", b"2"), ("a", b"")):
        (tmp_path / name).write_bytes(content)
        seen.add(digest(tmp_path))
    assert len(seen) == 5
    (tmp_path / ".hidden").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    assert digest(tmp_path) in seen


def test_large_files_are_sampled_to_both_ends(tmp_path: Path) -> None:
    content = bytearray(os.urandom(100_000))
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    first = digest(tmp_path)
    for place in (0, 99_999):
        content[place] ^= 1
        file.write_bytes(content)
        assert digest(tmp_path) != first
        content[place] ^= 1
    file.write_bytes(bytes(byte ^ 1 for byte in content))
    assert digest(tmp_path) != first
    file.write_bytes(content)
    assert digest(tmp_path) == first
