import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, CLIPConfig, CLIPModel
from transformers.models.clip import CLIPImageProcessor
from transformers.models.siglip import SiglipImageProcessor

from hdvl.config import CONF_DIR
from hdvl.encoders import TransformersEncoder

TINY = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
# type: prefix tokens, has a norm over its patches
CASES = {
    "clip_vision_model": (1, False),
    "siglip_vision_model": (0, True),
    "siglip2_vision_model": (0, True),
    "idefics3_vision": (0, True),
    "smolvlm_vision": (0, True),
    "dinov2": (1, True),
    "dinov2_with_registers": (5, True),
    "dinov3_vit": (1, True),
}


def config(name: str) -> dict[str, Any]:
    if name == "siglip2_vision_model":  # any aspect ratio: patches are counted, not pixels
        return {key: value for key, value in TINY.items() if key != "image_size"} | {
            "num_patches": 16
        }
    if name.startswith("dinov2"):
        return {key: value for key, value in TINY.items() if key != "intermediate_size"}
    return TINY


def make(name: str, **options: Any) -> TransformersEncoder:
    return TransformersEncoder(name=name, config=config(name), **HALF | options).eval()


def whole_model(name: str) -> nn.Module:
    return AutoModel.from_config(AutoConfig.for_model(name, **config(name))).eval()


def mixing(encoder: nn.Module) -> str:
    """What the parameters after the attention are called in this version of transformers."""
    names = [name for name, _ in encoder.named_parameters()]
    for part in ("self_attn.out_proj", "attention.output.dense", "o_proj", "out_proj"):
        if any(part in name for name in names):
            return part
    raise AssertionError(names)


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize("name", CASES)
def test_contract(name: str, assert_contract: Callable[..., None]) -> None:
    prefix, has_norm = CASES[name]
    encoder = make(name, final_norm=has_norm)
    assert_contract(encoder, mixing=mixing(encoder), prefix=prefix)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("layer", [-2, -1])
def test_features_are_the_librarys_hidden_states(
    name: str, layer: int, noise: Callable[..., Tensor]
) -> None:
    whole, encoder = whole_model(name), make(name, select_layer=layer)
    state = whole.state_dict()
    encoder.model.load_state_dict({key: state[key] for key in encoder.model.state_dict()})
    pixels = encoder.pixels(noise(2, 32), torch.float32)
    blocks = next(m for m in whole.modules() if isinstance(m, nn.ModuleList) and len(m) == 3)
    seen: list[Tensor] = []
    blocks[layer].register_forward_hook(
        lambda *args: seen.append(args[2][0] if isinstance(args[2], tuple) else args[2])
    )
    whole(**encoder._inputs(pixels))
    features, prefix = encoder.forward_with_prefix(pixels)
    assert torch.allclose(torch.cat([prefix, features], dim=1), seen[0], atol=1e-6)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[1]])
def test_final_norm_is_the_librarys(name: str, noise: Callable[..., Tensor]) -> None:
    whole, encoder = whole_model(name), make(name, final_norm=True)
    state = whole.state_dict()
    encoder.model.load_state_dict({key: state[key] for key in encoder.model.state_dict()})
    pixels = encoder.pixels(noise(2, 32), torch.float32)
    theirs = whole(**encoder._inputs(pixels)).last_hidden_state
    assert torch.allclose(encoder(pixels), theirs[:, CASES[name][0] :], atol=1e-6)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("preset", "processor"),
    [("clip_l_336", CLIPImageProcessor), ("siglip2", SiglipImageProcessor)],
)
def test_normalisation_is_the_librarys(
    preset: str, processor: Any, noise: Callable[..., Tensor]
) -> None:
    import yaml

    told = yaml.safe_load((CONF_DIR / f"encoder/{preset}.yaml").read_text())
    encoder = make(told["name"], mean=told["mean"], std=told["std"])
    tile = noise(1, 32)
    image = Image.fromarray(tile[0].permute(1, 2, 0).numpy().astype(np.uint8))
    theirs = processor(do_resize=False, do_center_crop=False)(image, return_tensors="pt")
    ours = encoder.pixels(tile, torch.float32)
    assert torch.allclose(ours, theirs["pixel_values"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_tile_size_interpolates_positions_and_keeps_their_parameter(
    name: str, noise: Callable[..., Tensor]
) -> None:
    encoder, native = make(name, tile_size=48), make(name)
    assert (encoder.grid, encoder.tile_size) == ((6, 6), 48)
    assert encoder(noise(2, 48)).shape == (2, 36, 48)
    assert {key: value.shape for key, value in encoder.state_dict().items()} == {
        key: value.shape for key, value in native.state_dict().items()
    }


def test_from_a_folder_of_a_whole_clip(tmp_path: Path, noise: Callable[..., Tensor]) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
            "intermediate_size": 16, "bos_token_id": 0, "eos_token_id": 1}  # fmt: skip
    clip = CLIPModel(CLIPConfig(vision_config=TINY, text_config=text)).eval()
    clip.save_pretrained(tmp_path)
    encoder = TransformersEncoder.from_pretrained(
        name="clip_vision_model", weights=tmp_path, config=TINY, select_layer=-2, **HALF
    ).eval()
    pixels = encoder.pixels(noise(1, 32), torch.float32)
    theirs = clip.vision_model(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    assert torch.equal(encoder(pixels), theirs)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("name", ["siglip_vision_model", "dinov2_with_registers"])
def test_from_a_folder(name: str, tmp_path: Path, noise: Callable[..., Tensor]) -> None:
    whole = whole_model(name)
    whole.save_pretrained(tmp_path)
    encoder = TransformersEncoder.from_pretrained(
        name=name, weights=tmp_path, config=config(name), final_norm=True, **HALF
    ).eval()
    pixels = encoder.pixels(noise(1, 32), torch.float32)
    theirs = whole(**encoder._inputs(pixels)).last_hidden_state[:, CASES[name][0] :]
    assert torch.allclose(encoder(pixels), theirs, atol=1e-6)


def load(folder: Path, **options: Any) -> TransformersEncoder:
    options = {"config": TINY} | HALF | options
    return TransformersEncoder.from_pretrained(
        name="siglip_vision_model", weights=folder, final_norm=True, **options
    )


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    whole_model("siglip_vision_model").save_pretrained(tmp_path)
    told = {"image_mean": [0.4, 0.5, 0.5], "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    with pytest.raises(
        ValueError, match=r"encoder must be what the weights in .* are for"
    ) as error:
        load(tmp_path, config=TINY | {"hidden_act": "relu"})
    assert "config.hidden_act=gelu_pytorch_tanh (not relu)" in str(error.value)
    assert "mean=[0.4, 0.5, 0.5] (not [0.5, 0.5, 0.5])" in str(error.value)
    assert "std" not in str(error.value)


@pytest.mark.slow
def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    whole_model("siglip_vision_model").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    lost = next(key for key in state if key.endswith("layers.1.mlp.fc1.bias"))
    save_file({key: value for key, value in state.items() if key != lost}, file)
    with pytest.raises(ValueError, match=r"missing: encoder\.layers\.1\.mlp\.fc1\.bias"):
        load(tmp_path)
    save_file(state | {"extra.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"surplus: extra\.weight"):
        load(tmp_path)
    save_file(state | {lost: torch.zeros(3)}, file)
    with pytest.raises(ValueError, match=r"misshapen: .*fc1\.bias \(3,\) for \(96,\)"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "clip-vit-base"},
            "name must be a model type of transformers, .* 'clip-vit-base'",
        ),
        ({"select_layer": -4}, r"select_layer must be in -3\.\.-1"),
        ({"tile_size": 50}, "tile_size must be a multiple of the patch size 8, got 50"),
        ({"final_norm": True}, "final_norm=True needs .* clip_vision_model does not"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformersEncoder(**{"name": "clip_vision_model", "config": TINY} | HALF | options)


def test_without_weights_it_is_random() -> None:
    encoder = TransformersEncoder.from_pretrained(name="clip_vision_model", config=TINY, **HALF)
    assert encoder.grid == (4, 4)


def test_a_norm_of_its_own_behind_the_chosen_block() -> None:
    """As in XVERSE-V, it starts with weight 1 and bias 0, and computes in float32 also for bfloat16."""
    torch.manual_seed(0)
    plain = make("clip_vision_model", select_layer=-2)
    normed = make("clip_vision_model", select_layer=-2, feature_norm=True)
    missing = {"feature_norm.weight", "feature_norm.bias"}
    assert set(normed.state_dict()) - set(plain.state_dict()) == missing
    normed.model.load_state_dict(plain.model.state_dict())
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    bare = plain(pixels)
    torch.testing.assert_close(normed(pixels), nn.functional.layer_norm(bare, (48,), eps=1e-5))
    half = normed.feature_norm.to(torch.bfloat16)(bare.bfloat16())
    wanted = nn.functional.layer_norm(bare.bfloat16().float(), (48,), eps=1e-5).bfloat16()
    assert torch.equal(half, wanted)
