"""Merged products: what is replaced, and that what it gives is what the separate ones gave."""

import pytest
import torch
from engines import FAMILIES, SHAPE
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tokenyard.workers.fusion import MergedAttention, MergedMLP, is_plain, merge, merged


def model_of(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SHAPE, **FAMILIES[family]})
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def test_separate_layers_become_views_of_the_merged_one() -> None:
    parts = [nn.Linear(8, width).requires_grad_(False) for width in (16, 4, 4)]
    x = torch.randn(3, 8)
    apart = torch.cat([one(x) for one in parts], dim=-1)
    whole = merged(*parts)
    torch.testing.assert_close(whole(x), apart)
    torch.testing.assert_close(torch.cat([one(x) for one in parts], dim=-1), apart)
    assert parts[1].weight.data_ptr() == whole.weight[16:].data_ptr(), "a copy would double the model's memory"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_of_a_listed_family_is_replaced(family: str) -> None:
    model = model_of(family)
    assert merge(model) == 2 * model.config.num_hidden_layers
    kinds = [type(one) for one in model.modules()]
    assert kinds.count(MergedAttention) == kinds.count(MergedMLP) == model.config.num_hidden_layers
    windows = {one.sliding_window for one in model.modules() if isinstance(one, MergedAttention)}
    assert windows == {FAMILIES[family].get("sliding_window")}


def test_what_is_quantized_or_adapted_is_left_alone() -> None:
    class Adapted(nn.Linear):
        pass

    model = model_of("llama")
    first = model.model.layers[0]
    first.self_attn.k_proj = Adapted(32, 16, bias=False)
    assert not is_plain(first.self_attn.k_proj)
    assert merge(model) == 3
    assert not isinstance(first.self_attn, MergedAttention)
