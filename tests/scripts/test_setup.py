"""What scripts/setup.sh decides: which Python, whose torch, and when there is nothing to do. No network, no install.

A checkout of two files, and a PATH of tools whose Pythons only write down what they are asked to do.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "basename", "cat", "dirname", "ln", "mkdir", "sha256sum")
PYTHON = """#!/usr/bin/env bash
# $FITS: Pythons that are new enough; $TORCH: those with a fitting torch; $FAILS: a word of pip calls that fail
name=$(basename "$0")
case $1 in
  --version) echo "Python of $name" ;;
  -c) if [[ $2 == *torch* ]]; then [[ " $TORCH " == *" $name "* ]]; else [[ " $FITS python " == *" $name "* ]]; fi ;;
  -m)
    echo "$name ${*:2}" >>"$LOG"
    if [[ $2 == venv ]]; then mkdir -p .venv/bin && ln -sf "$0" .venv/bin/python; fi
    if [[ $2 == pip && -n $FAILS ]]; then for word in $FAILS; do [[ " $* " != *" $word "* ]] || exit 1; done; fi
    ;;
esac
"""


class Checkout:
    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        self.bin = folder / "bin"
        self.log = folder / "log"
        (self.root / "scripts").mkdir(parents=True)
        self.bin.mkdir()
        shutil.copy(ROOT / "scripts" / "setup.sh", self.root / "scripts")
        shutil.copy(ROOT / "pyproject.toml", self.root)
        for tool in (*TOOLS, "env"):
            found = shutil.which(tool)
            assert found
            (self.bin / tool).symlink_to(found)
        for name in ("python3.13", "python3.12", "python3.11", "python3"):
            self.add(name, PYTHON)

    def add(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def set_up(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Runs setup.sh; `calls` then has what this run asked of any Python."""
        self.log.write_text("")
        known = {"PATH": str(self.bin), "LOG": str(self.log), "FITS": "python3.12 python3.11", "TORCH": "", "FAILS": ""}
        line = [str(self.root / "scripts" / "setup.sh"), *arguments]
        return subprocess.run(line, env=known | environment, capture_output=True, text=True, timeout=30)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()

    @property
    def torch(self) -> list[str]:
        """The ways by which a torch was asked for."""
        return [call for call in self.calls if "torch==" in call]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_newest_python_that_fits_is_taken(checkout: Checkout) -> None:
    done = checkout.set_up()
    assert done.returncode == 0, done.stderr
    assert checkout.calls[0] == "python3.12 venv --clear .venv"
    assert checkout.calls[-1].endswith("--editable .")
    assert "making .venv with Python of python3.12" in done.stderr
    assert (checkout.root / ".typing" / "tokenyard" / "broker").is_symlink()


def test_a_python_that_is_asked_for_is_taken_or_refused(checkout: Checkout) -> None:
    assert checkout.set_up(PYTHON="python3.11").returncode == 0
    assert checkout.calls[0].startswith("python3.11 venv")
    shutil.rmtree(checkout.root / ".venv")
    refused = checkout.set_up(PYTHON="python3.13")
    assert refused.returncode == 1
    assert "PYTHON=python3.13 is not that" in refused.stderr
    assert checkout.calls == []


def test_without_a_fitting_python_it_says_what_to_install(checkout: Checkout) -> None:
    done = checkout.set_up(FITS="")
    assert done.returncode == 1
    assert "apt install python3 python3-venv" in done.stderr


def test_a_fitting_torch_of_the_machine_is_used(checkout: Checkout) -> None:
    done = checkout.set_up(TORCH="python3.12 python")
    assert checkout.calls[0] == "python3.12 venv --clear --system-site-packages .venv"
    assert checkout.torch == []
    assert "a fitting torch is there already" in done.stderr


def test_with_a_gpu_torch_comes_with_cuda(checkout: Checkout) -> None:
    checkout.add("nvidia-smi", "#!/usr/bin/env bash\n")
    assert "torch comes with CUDA" in checkout.set_up().stderr
    assert checkout.torch == []


def test_without_a_gpu_torch_is_the_cpus(checkout: Checkout) -> None:
    checkout.set_up()
    assert ["--no-index" in call for call in checkout.torch] == [True]
    shutil.rmtree(checkout.root / ".venv")
    checkout.set_up(FAILS="--no-index")
    assert "--index-url https://download.pytorch.org/whl/cpu" in checkout.torch[-1]
    shutil.rmtree(checkout.root / ".venv")
    done = checkout.set_up(FAILS="--no-index --index-url")
    assert done.returncode == 0
    assert "brings CUDA along" in done.stderr


def test_it_runs_once_for_each_state(checkout: Checkout) -> None:
    assert checkout.set_up().returncode == 0
    again = checkout.set_up()
    assert (again.returncode, again.stderr, checkout.calls) == (0, "", [])
    checkout.set_up("--dev")
    assert checkout.calls[-1].endswith("--editable .[dev]")
    checkout.set_up()
    assert checkout.calls == [], "what --dev has set up serves, too"
    with (checkout.root / "pyproject.toml").open("a") as file:
        file.write("\n")
    checkout.set_up()
    assert checkout.calls[-1].endswith("--editable .")
    assert "venv" not in checkout.calls[0]
    moved = checkout.root.with_name("moved")
    os.rename(checkout.root, moved)
    checkout.root = moved
    checkout.set_up()
    assert checkout.calls, "a checkout that was moved is set up again"


def test_what_fails_is_tried_again(checkout: Checkout) -> None:
    assert checkout.set_up(FAILS="--editable").returncode != 0
    assert checkout.set_up().returncode == 0
    assert checkout.calls[-1].endswith("--editable .")
