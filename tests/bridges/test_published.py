"""Bridges equal the projectors of transformers' published designs, on random weights."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AyaVisionConfig,
    CLIPVisionConfig,
    Idefics3Config,
    Lfm2VlConfig,
    LlamaConfig,
    LlavaConfig,
    SiglipVisionConfig,
    SmolVLMConfig,
)
from transformers.models.aya_vision.modeling_aya_vision import AyaVisionMultiModalProjector
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.lfm2_vl.modeling_lfm2_vl import Lfm2VlMultiModalProjector
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.models.mistral3.modeling_mistral3 import Mistral3PatchMerger
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMConnector

from hdvl.bridges import MLP, PixelShuffleMLP
from hdvl.protocols import Grid

TEXT = LlamaConfig(hidden_size=10, num_attention_heads=1)
VISION = SiglipVisionConfig(hidden_size=6, num_attention_heads=2)


def loaded(bridge: nn.Module, reference: nn.Module, names: Mapping[str, str]) -> nn.Module:
    """``bridge`` with the random weights of ``reference``, whose modules are named otherwise."""
    with torch.no_grad():
        for parameter in reference.parameters():
            nn.init.normal_(parameter)
    state = reference.state_dict()
    moved = {}
    for key, value in state.items():
        module, _, leaf = key.rpartition(".")
        moved[f"{names[module]}.{leaf}"] = value
    bridge.load_state_dict(moved)
    return bridge


def shuffle(grid: Grid, **options: Any) -> PixelShuffleMLP:
    return PixelShuffleMLP(in_width=6, out_width=10, grid=grid, **options)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted.reshape(found.shape), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize(
    ("connector", "config"),
    [(Idefics3Connector, Idefics3Config), (SmolVLMConnector, SmolVLMConfig)],
)
def test_idefics3_and_smolvlm(connector: Any, config: Any, factor: int) -> None:
    reference = connector(
        config(vision_config={"hidden_size": 6}, text_config=TEXT, scale_factor=factor)
    )
    bridge = loaded(
        shuffle((6, 6), factor=factor, depth=1, bias=False, norm=False),
        reference,
        {"modality_projection.proj": "mlp.1"},
    )
    features = torch.randn(2, 36, 6)
    close(bridge(features), reference(features))


def test_aya_vision() -> None:
    reference = AyaVisionMultiModalProjector(
        AyaVisionConfig(
            vision_config=VISION,
            text_config=TEXT,
            alignment_intermediate_size=14,
            downsample_factor=2,
        )
    )
    bridge = loaded(
        shuffle((6, 6), hidden=7, activation="silu", gated=True, norm_eps=1e-6),
        reference,
        {"layernorm": "mlp.0", "linear_1": "mlp.1", "linear_2": "mlp.3"},
    )
    features = torch.randn(2, 36, 6)
    close(bridge(features), reference(features))


@pytest.mark.parametrize(("norm", "bias"), [(True, True), (False, False), (False, True)])
def test_lfm2_vl_on_an_oblong_grid(norm: bool, bias: bool) -> None:
    described = Lfm2VlConfig(
        vision_config={"model_type": "siglip2_vision_model", "hidden_size": 6},
        text_config=AutoConfig.for_model("lfm2", hidden_size=10),
        projector_hidden_size=9,
        projector_use_layernorm=norm,
        projector_bias=bias,
    )
    reference = Lfm2VlMultiModalProjector(described)
    bridge = loaded(
        shuffle((4, 6), hidden=9, norm=norm, bias=bias),
        reference,
        {"layer_norm": "mlp.0", "linear_1": "mlp.1", "linear_2": "mlp.3"},
    )
    features = torch.randn(2, 24, 6)
    close(bridge(features), reference(features.view(2, 4, 6, 6)))


@pytest.mark.parametrize("bias", [True, False])
def test_llava(bias: bool) -> None:
    vision = CLIPVisionConfig(hidden_size=6, num_attention_heads=2)
    reference = LlavaMultiModalProjector(
        LlavaConfig(vision_config=vision, text_config=TEXT, multimodal_projector_bias=bias)
    )
    bridge = loaded(
        MLP(in_width=6, out_width=10, grid=(4, 4), bias=bias, activation="gelu"),
        reference,
        {"linear_1": "mlp.0", "linear_2": "mlp.2"},
    )
    features = torch.randn(2, 16, 6)
    close(bridge(features), reference(features))


def test_channel_major_is_the_order_of_mistral3() -> None:
    described = AutoConfig.for_model(
        "mistral3", vision_config={"model_type": "pixtral", "hidden_size": 6, "patch_size": 14}
    )
    reference = Mistral3PatchMerger(described)
    bridge = loaded(
        PixelShuffleMLP(
            in_width=6, out_width=6, grid=(4, 6), channel_order="channel_major", depth=1, bias=False,
            norm=False,
        ),
        reference,
        {"merging_layer": "mlp.1"},
    )  # fmt: skip
    features = torch.randn(24, 6)
    close(bridge(features[None]), reference(features, [(4 * 14, 6 * 14)]))
