"""A model that comes with its own code: served when told to trust it, refused with words otherwise."""

import json
from pathlib import Path

import pytest
import torch
from engines import Bench, greedy, job_of, prompt_of, run, save_tiny
from reference import Reference
from safetensors.torch import save_file
from transformers import dynamic_module_utils

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import ModelSpec
from tokenyard.workers.model import EngineOptions, LoadedModel, load_model
from tokenyard.workers.plain import Prefill, Way

VOCAB, WIDTH = 211, 16
CODE = '''
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class EchoConfig(PreTrainedConfig):
    model_type = "echo"


class EchoForCausalLM(PreTrainedModel):
    """Each token sees a fading sum of those before it; the sum so far is all that it keeps."""

    config_class = EchoConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.head = torch.nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(self, input_ids, past_key_values=None, use_cache=None, **kwargs):
        hidden = self.embed(input_ids)
        total = torch.zeros_like(hidden[:, 0]) if past_key_values is None else past_key_values[0]
        sums = []
        for index in range(hidden.shape[1]):
            total = 0.7 * total + hidden[:, index]
            sums.append(total)
        kept = (total,) if use_cache else None
        return CausalLMOutputWithPast(logits=self.head(torch.stack(sums, dim=1)), past_key_values=kept)
'''


@pytest.fixture(autouse=True)
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers copies the code before it imports it: not into the user's cache."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny_echo"
    path.mkdir()
    (path / "echo_code.py").write_text(CODE)
    config = {
        "model_type": "echo",
        "architectures": ["EchoForCausalLM"],
        "auto_map": {"AutoConfig": "echo_code.EchoConfig", "AutoModelForCausalLM": "echo_code.EchoForCausalLM"},
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
    }
    (path / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    weights = {"embed.weight": (VOCAB, WIDTH), "head.weight": (VOCAB, WIDTH), "head.bias": (VOCAB,)}
    save_file({name: torch.randn(shape) for name, shape in weights.items()}, path / "model.safetensors")
    return path


def load(directory: Path, trust: bool) -> LoadedModel:
    options = EngineOptions(max_model_len=256, trust_remote_code=trust)
    return load_model(ModelSpec(str(directory)), "cpu", "float32", options)


OWN_LLAMA = '''
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own_llama"


class OwnForCausalLM(LlamaForCausalLM):
    """Llama under a name that transformers does not know, with logits of its own."""

    config_class = OwnConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits.tanh() * 5
        return output
'''


def test_code_that_leads_attention_through_ours_is_paged(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "own_llama", "llama")
    (directory / "own_code.py").write_text(OWN_LLAMA)
    config = json.loads((directory / "config.json").read_text())
    auto_map = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnForCausalLM"}
    config |= {"model_type": "own_llama", "architectures": ["OwnForCausalLM"], "auto_map": auto_map}
    (directory / "config.json").write_text(json.dumps(config))
    loaded = load(directory, trust=True)
    assert type(loaded.model).__name__ == "OwnForCausalLM"
    assert loaded.card.lane == "paged"
    engine = Bench(loaded, reference=None).engine(max_num_seqs=4, max_batch_tokens=24)  # type: ignore[arg-type]
    prompts = [prompt_of(50), prompt_of(3)]
    for number, prompt in enumerate(prompts):
        engine.add(job_of(number), prompt, [], greedy(20))
    streams = run(engine)
    reference = Reference(save_tiny(tmp_path / "llama", "llama"))  # tanh leaves the likeliest where it was
    for number, prompt in enumerate(prompts):
        reference.check_greedy(prompt, streams[job_of(number)].ids)


def test_without_trust_the_words_name_the_flag(directory: Path) -> None:
    with pytest.raises(SetupError, match=r"tiny_echo: it cannot be loaded: .* --trust-remote-code"):
        load(directory, trust=False)


def test_with_trust_it_is_served(directory: Path) -> None:
    loaded = load(directory, trust=True)
    assert loaded.verdict.way == Way(Prefill.CHUNKS, own_cache=True, positions=True)
    engine = Bench(loaded, reference=None).engine(max_num_seqs=4, max_batch_tokens=24)  # type: ignore[arg-type]
    prompts = [prompt_of(50), prompt_of(3)]
    for number, prompt in enumerate(prompts):
        engine.add(job_of(number), prompt, [], greedy(20))
    streams = run(engine)
    for number, prompt in enumerate(prompts):
        ids = torch.tensor([prompt + streams[job_of(number)].ids])
        wanted = loaded.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].argmax(dim=-1)
        assert streams[job_of(number)].ids == wanted.tolist()
