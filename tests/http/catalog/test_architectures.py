"""Tables that are read from transformers' text say what transformers itself does."""

import pytest
from transformers.models.auto import modeling_auto

from tokenyard.http.catalog.architectures import BODIES, CAUSAL, refusal, table


@pytest.mark.parametrize("name", [CAUSAL, BODIES])
def test_the_tables_are_those_of_transformers(name: str) -> None:
    assert table(name) == dict(getattr(modeling_auto, name))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}, None),
        ({"model_type": "qwen3"}, None),
        ({"model_type": "bert", "architectures": ["BertModel"]}, None),
        ({"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}, None),
        ({"architectures": ["OldForCausalLM"]}, None),
        ({"model_type": "clip", "architectures": ["CLIPForImageClassification"]}, "no causal language model"),
        (
            {"model_type": "bart", "architectures": ["BartModel"], "is_encoder_decoder": True},
            "an encoder and a decoder",
        ),
        ({}, "names neither"),
        ({"model_type": 7}, "broken"),
        ({"model_type": "qwen3", "architectures": "Qwen3ForCausalLM"}, "broken"),
        ({"model_type": "qwen3", "architectures": [{}]}, "broken"),
    ],
)
def test_what_config_json_speaks_against(config: dict[str, object], words: str | None) -> None:
    told = refusal(config, trust_remote_code=False)
    assert (told is None) if words is None else (words in (told or ""))


def test_code_of_its_own_is_run_only_where_that_is_trusted() -> None:
    config = {"model_type": "mine", "architectures": ["Mine"], "auto_map": {"AutoModelForCausalLM": "m.Mine"}}
    assert "--trust-remote-code" in (refusal(config, trust_remote_code=False) or "")
    assert refusal(config, trust_remote_code=True) is None
