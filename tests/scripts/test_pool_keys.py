"""`tokenyard keys`: files that only their owner reads, made once, and a list that lets in whom it should."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tokenyard.broker.curve import AllowList, read_keys
from tokenyard.broker.errors import SetupError
from tokenyard.scripts.pool_keys import make_keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The broker's, with one other box."""
    make_keys(tmp_path / "keys", ["box2"])
    return tmp_path / "keys"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_file_is_its_owners_alone(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_umask_of_the_caller_neither_matters_nor_changes(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_keys(tmp_path / "keys", [])
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keys" / "own.key_secret").stat().st_mode) == 0o600


def test_both_boxes_know_the_broker_and_the_list_knows_both(folder: Path) -> None:
    broker, box2 = read_keys(folder), read_keys(folder / "for" / "box2")
    assert broker.public == broker.broker == box2.broker != box2.public
    assert AllowList(broker).names == {broker.public: "broker", box2.public: "box2"}


def test_asked_again_it_changes_nothing(folder: Path) -> None:
    before = contents(folder)
    assert "box2 has a key already" in "\n".join(make_keys(folder, ["box2"]))
    assert contents(folder) == before
    shutil.rmtree(folder / "for" / "box2")
    (*_, last) = make_keys(folder, ["box2"])
    assert last.startswith("box2 has a key already. For another: rm ")
    make_keys(folder, ["box3"])
    assert contents(folder).keys() - before.keys() == {
        "allowed/box3.key",
        "for/box3/own.key_secret",
        "for/box3/broker.key",
    }


def test_one_that_was_shut_out_gets_a_new_pair(folder: Path) -> None:
    old = read_keys(folder / "for" / "box2")
    (folder / "allowed" / "box2.key").unlink()
    make_keys(folder, ["box2"])
    new = read_keys(folder / "for" / "box2")
    assert new.public != old.public
    assert "box2" in AllowList(read_keys(folder)).names.values()


def test_the_command_shows_what_to_do_and_no_secret(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "tokenyard.scripts.cli", "keys", str(tmp_path / "keys"), "--name", "box2"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert f"scp -rp {tmp_path / 'keys' / 'for' / 'box2'} box2:" in done.stdout
    for path in (tmp_path / "keys", tmp_path / "keys" / "for" / "box2"):
        assert read_keys(path).secret.decode() not in done.stdout + done.stderr
        assert read_keys(path).secret.decode() not in repr(read_keys(path))
    again = subprocess.run(line, capture_output=True, text=True, check=True)
    assert "has the broker's keys" in again.stdout


@pytest.mark.parametrize(
    ("name", "words"), [("../x", "give a box's name"), ("broker", "give a box's name"), ("", "give a box's name")]
)
def test_a_name_that_is_none_is_refused(folder: Path, name: str, words: str) -> None:
    with pytest.raises(SetupError, match=words):
        make_keys(folder, [name])


def test_another_boxes_folder_is_not_taken_for_the_brokers(folder: Path) -> None:
    with pytest.raises(SetupError, match="is not the broker's"):
        make_keys(folder / "for" / "box2", ["box3"])


def test_a_folder_that_cannot_be_made_is_told() -> None:
    with pytest.raises(SetupError, match="/sys/keys: "):
        make_keys(Path("/sys/keys"), [])


# Reading them


def test_what_others_may_read_is_refused_with_advice(folder: Path) -> None:
    (folder / "own.key_secret").chmod(0o640)
    with pytest.raises(SetupError, match=r"chmod go= .*own\.key_secret"):
        read_keys(folder)
    (folder / "own.key_secret").chmod(0o600)
    folder.chmod(0o750)
    with pytest.raises(SetupError, match=r"chmod go= .*keys"):
        read_keys(folder)


def test_what_is_missing_is_named(folder: Path) -> None:
    (folder / "broker.key").unlink()
    with pytest.raises(SetupError, match=r"there is no .*broker\.key; `tokenyard keys`"):
        read_keys(folder)


def test_a_broken_file_is_told_without_what_is_in_it(folder: Path) -> None:
    secret = read_keys(folder).secret.decode()
    path = folder / "own.key_secret"
    path.write_text(path.read_text().replace(secret, secret[:-1]))
    with pytest.raises(SetupError, match="is no ZeroMQ certificate") as caught:
        read_keys(folder)
    assert secret[:10] not in str(caught.value)
    assert caught.value.__context__ is None or secret[:10] not in str(caught.value.__context__)


def test_the_list_is_read_again_when_it_changes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = read_keys(folder)
    listed = AllowList(keys)
    assert not listed.refresh()
    make_keys(folder, ["box3"])
    assert listed.refresh()
    assert sorted(listed.names.values()) == ["box2", "box3", "broker"]
    (folder / "allowed" / "box2.key").unlink()
    (folder / "allowed" / "half.key").write_text('curve\n    public-key = "abc')
    assert listed.refresh()
    assert sorted(listed.names.values()) == ["box3", "broker"]
    assert "half.key" in caplog.text
    assert not listed.refresh()
    shutil.rmtree(folder / "allowed")
    assert listed.refresh()
    assert listed.names == {}
    assert "lets nobody in" in caplog.text
