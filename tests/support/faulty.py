"""The demo model with code of its own that goes wrong on certain prompts: the honest way to a broken step.

Everything else is as in the bundled model: same weights, same answers. It runs with --trust-remote-code.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from models import DEMO

NAN, RAISE, CRASH, DEVICE, HANG = 2040, 2041, 2042, 2043, 2044
"""Ids that the demo model never emits; a run of them in a prompt sets the fault off."""
RUN = 24
"""So many in a prompt: whatever its chunks, the first holds three in a row. No self-test has equal neighbours."""

CODE = f'''
import os
import threading
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM


class FaultyConfig(Qwen3Config):
    model_type = "faulty"


class FaultyForCausalLM(Qwen3ForCausalLM):
    """Qwen3, but for what certain tokens do."""

    config_class = FaultyConfig

    def forward(self, input_ids=None, **kwargs):
        if self._meets(input_ids, {RAISE}):
            raise RuntimeError("the model raises")
        if self._meets(input_ids, {CRASH}):
            import ctypes
            ctypes.string_at(0)
        if self._meets(input_ids, {HANG}) and self._burns():
            threading.Event().wait()
        if self._meets(input_ids, {DEVICE}) and self._burns():
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if self._meets(input_ids, {NAN}):
            embedded = self.model.embed_tokens(input_ids)
            embedded = torch.where((input_ids == {NAN}).unsqueeze(-1), torch.nan, embedded)
            return super().forward(inputs_embeds=embedded, **kwargs)
        return super().forward(input_ids=input_ids, **kwargs)

    @staticmethod
    def _burns():
        fuse = Path(os.environ["FAULTY_FUSE"])
        if fuse.exists():
            fuse.unlink()
            return True
        return False

    @staticmethod
    def _meets(input_ids, token):
        ids = input_ids.flatten()
        return bool(((ids[2:] == token) & (ids[1:-1] == token) & (ids[:-2] == token)).any())
'''


def save_faulty(directory: Path) -> Path:
    """The model's directory, made; what is large is a link."""
    directory.mkdir()
    for path in Path(DEMO).iterdir():
        if path.is_file():
            (directory / path.name).symlink_to(path)
    config = json.loads((Path(DEMO) / "config.json").read_text())
    auto_map = {"AutoConfig": "faulty_code.FaultyConfig", "AutoModelForCausalLM": "faulty_code.FaultyForCausalLM"}
    config |= {"model_type": "faulty", "architectures": ["FaultyForCausalLM"], "auto_map": auto_map}
    (directory / "config.json").unlink()
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "faulty_code.py").write_text(CODE)
    return directory


@contextmanager
def faulty_environment(folder: Path) -> Iterator[Path]:
    """Processes started herein copy the code to `folder`, not to the user's cache; yields the fuse of some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_MODULES_CACHE", str(folder / "modules"))
        patch.setenv("FAULTY_FUSE", str(folder / "fuse"))
        yield folder / "fuse"
