"""The tokenizer of a GGUF file, chat template and all, as files that fronts and workers load: part of the contract.

transformers makes them, and needs torch for that. A worker has torch, and makes them as it loads the file. A front
never imports it: where no worker has made them on its machine, it lets a process of their own do it. Run as a module,
this is that process.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

from tokenyard.broker import hub
from tokenyard.broker.config import cache_dir
from tokenyard.broker.wire import Card

TIME_LIMIT_S = 300.0
"""Generous: it takes 3 s, most of them to import torch, and 1 s for a vocabulary of 152,000 tokens."""
SAVED = "tokenizer.json"


def tokenizer_folder(card: Card, apart: bool = True) -> Path:
    """Where the files of a model's tokenizer are, made or fetched first if need be. Raises as `converted` does."""
    if card.file:
        return converted(card.source, card.commit, card.file, apart)
    local = Path(card.source)
    return local if local.is_dir() else hub.small_files(card.source, card.commit)


def converted(source: str, commit: str, file: str, apart: bool = True) -> Path:
    """The directory with the tokenizer of a model's GGUF file, as Card has it; made first where it is not there yet.

    `apart`: not in this process. Raises OSError, ValueError, and what else transformers makes of a broken file.
    """
    parts = (source, commit, file, version("transformers"))
    name = blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
    home = cache_dir() / "tokenizers"
    home.mkdir(parents=True, exist_ok=True)
    directory = home / name
    with (home / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers and fronts want it at once
        if not (directory / SAVED).is_file():
            (_convert_apart if apart else _convert)(source, commit, file, directory)
    return directory


def _convert_apart(source: str, commit: str, file: str, directory: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "USE_TORCH"}
    line = [sys.executable, "-m", __spec__.name, source, commit, file, str(directory)]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=TIME_LIMIT_S, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise ValueError(f"its tokenizer cannot be read from {file}: {last}")


def _convert(source: str, commit: str, file: str, directory: Path) -> None:
    """Whole or not at all."""
    from transformers import PreTrainedTokenizerFast

    files = Path(source)
    if not files.is_dir():
        from huggingface_hub import hf_hub_download

        # transformers would ask the Hub for each file that is not there, also where it cannot be reached
        path = hf_hub_download(source, file, revision=commit)
        files = Path(path.removesuffix(file))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(files, gguf_file=file, local_files_only=True)
    made = Path(tempfile.mkdtemp(dir=directory.parent))
    try:
        tokenizer.save_pretrained(made)
        shutil.rmtree(directory, ignore_errors=True)
        made.rename(directory)
    finally:
        shutil.rmtree(made, ignore_errors=True)


if __name__ == "__main__":
    _convert(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
