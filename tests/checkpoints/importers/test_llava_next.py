"""LLaVA-NeXT folders of transformers: equal logits for all image sizes and both naming schemes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

import hdvl
from hdvl.checkpoints.importers import detect, load_published
from hdvl.llms import build_tokenizer, save_tokenizer
from hdvl.model import VLM
from hdvl.protocols import Message
from tests.golden_files import make_image
from tests.native_models import llava_next

SIZES = [(100, 60), (60, 100), (33, 90), (28, 28), (200, 40), (57, 56), (13, 11)]


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def both(
    model: Any, vlm: VLM, sizes: list[tuple[int, int]], image_id: int = 110
) -> tuple[Tensor, Tensor]:
    """(hdvl's logits, transformers' logits) of one prompt with an image of each size."""
    images = [make_image(["gradient", *size, k]) for k, size in enumerate(sizes)]
    tiles = [vlm.tiler(image) for image in images]
    plans = [item.plan for item in tiles]
    pixels = torch.cat([item.pixels for item in tiles])
    own = vlm.encoder.pixels(pixels, torch.float32)
    ids = [3, 4]
    for plan in plans:
        ids += [image_id] * vlm.merger.token_count(plan) + [9]
    ids_ = torch.tensor([[*ids, 5]])
    padded = torch.nn.utils.rnn.pad_sequence(
        own.split([plan.count for plan in plans]), batch_first=True
    )
    heights = torch.tensor([size[::-1] for size in sizes])
    with torch.no_grad():
        wanted = model(ids_, pixel_values=padded, image_sizes=heights)
        return vlm(ids_, pixels, plans).logits, wanted.logits


def test_pixels_are_those_of_transformers_own_processor(tmp_path: Path) -> None:
    model = llava_next()
    vlm = load_published(saved(model, tmp_path))
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
        image_grid_pinpoints=model.config.image_grid_pinpoints,
        image_mean=vlm.encoder.mean,
        image_std=vlm.encoder.std,
    )
    for size in SIZES:
        image = make_image(["gradient", *size, 0])
        theirs = processor(image, return_tensors="pt")["pixel_values"][0]
        own = vlm.encoder.pixels(vlm.tiler(image).pixels, torch.float32)
        assert own.shape == theirs.shape
        # Pillow resizes tall images in another order from version to version; hdvl does not.
        limit = 1e-5 if size[0] >= size[1] else 0.6
        assert (own - theirs).abs().max() < limit, size


def test_logits_are_transformers_own(tmp_path: Path) -> None:
    model = llava_next()
    folder = saved(model, tmp_path / "llava")
    assert detect(folder) == "llava_next"
    vlm = load_published(folder)
    for size in SIZES:
        found, wanted = both(model, vlm, [size])
        torch.testing.assert_close(
            found, wanted, atol=5e-5, rtol=0, msg=lambda m, s=size: f"{s}: {m}"
        )
    found, wanted = both(model, vlm, SIZES[:3])
    torch.testing.assert_close(found, wanted, atol=5e-5, rtol=0)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("changes", "layer"),
    [
        ({"vision_feature_layer": -1}, -1),
        (
            {
                "tower": {"model_type": "siglip_vision_model"},
                "vision_feature_layer": -1,
                "vision_feature_select_strategy": "full",
            },
            -1,
        ),
        (
            {
                "tower": {"model_type": "siglip_vision_model"},
                "vision_feature_select_strategy": "full",
            },
            -2,
        ),
        ({"text": {"model_type": "qwen2", "tie_word_embeddings": True}}, -2),
        ({"text": {"model_type": "mistral", "sliding_window": None}}, -2),
        (
            {
                **{"vision_feature_layer": 1, "projector_hidden_act": "relu"},
                **{"multimodal_projector_bias": False},
            },
            -3,
        ),
    ],
    ids=[
        "clip's last layer",
        "siglip, last layer",
        "siglip",
        "qwen2, tied",
        "mistral",
        "projector",
    ],
)
def test_other_compositions(changes: dict[str, Any], layer: int, tmp_path: Path) -> None:
    if "text" in changes and changes["text"].get("tie_word_embeddings"):
        changes = {**changes, "tie_word_embeddings": True}
    model = llava_next(**changes)
    vlm = load_published(saved(model, tmp_path))
    assert vlm.encoder.select_layer == layer
    found, wanted = both(model, vlm, SIZES[:2])
    torch.testing.assert_close(found, wanted, atol=5e-5, rtol=0)


SPELLINGS = {
    "as the modules are called": (
        ("vision_tower.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
        ("image_newline", "model.image_newline"),
    ),
    "older": (("vision_tower.", "vision_tower.vision_model."),),
}


@pytest.mark.slow
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling(spelling: str, tmp_path: Path) -> None:
    """transformers itself stores names in a third way, which the other tests read."""
    folder = saved(llava_next(), tmp_path)
    wanted = load_published(folder).state_dict()
    renamed = {}
    for key, value in load_file(folder / "model.safetensors").items():
        for old, new in SPELLINGS[spelling]:
            if key.startswith(old):
                key = new + key.removeprefix(old)
                break
        renamed[key] = value
    renamed["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(renamed, folder / "model.safetensors")
    if spelling == "as the modules are called":
        assert {"lm_head.weight", "model.image_newline"} <= set(renamed)
        del renamed["vision_tower.vision_model.embeddings.position_ids"]
        save_file(renamed, folder / "model.safetensors")
    found = load_published(folder).state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_pixel_statistics_come_with_the_folder(tmp_path: Path) -> None:
    folder = saved(llava_next(), tmp_path)
    told = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    vlm = load_published(folder)
    assert (vlm.encoder.mean, vlm.encoder.std) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_feature_layer": [-2, -3]}, r"vision_feature_layer must .* got \[-2, -3\]"),
        ({"vision_feature_select_strategy": "full"}, "select_strategy=full"),
        ({"projector_hidden_act": "wavy"}, "activation must be a known name, got 'wavy'"),
        ({"multimodal_projector_bias": False}, r"surplus: .*linear_1\.bias"),
        ({"image_grid_pinpoints": [[28, 50]]}, r"image_grid_pinpoints=\[\[28, 50\]\]"),
        ({"vision_config": {"model_type": "vit"}}, "vision tower of .* must be one of clip"),
    ],
)
def test_what_is_not_read(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = saved(llava_next(), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ValueError, match=message):
        load_published(folder)


@pytest.mark.slow
def test_weights_of_another_size_and_stray_keys(tmp_path: Path) -> None:
    folder = saved(llava_next(), tmp_path)
    state = load_file(folder / "model.safetensors")
    key = next(name for name in state if name.endswith("image_newline"))
    state[key] = torch.zeros(50)
    state["stray"] = torch.zeros(1)
    lost = next(name for name in state if "linear_2.bias" in name)
    del state[lost]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match="must fit the model") as error:
        load_published(folder)
    for text in (lost, "surplus: stray", r"(50,) for merger.newline (48,)"):
        assert text in str(error.value)


CHAT_TEMPLATE_OF_PARTS = (
    "{% for m in messages %}[{{ m.role }}] {% for part in m.content if part.type == 'image' %}<image>\n"
    "{% endfor %}{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)


def with_tokenizer(folder: Path) -> Any:
    """A tokenizer beside the weights, which has the image token at 320."""
    tokenizer = build_tokenizer(vocab_size=320)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    save_tokenizer(tokenizer, folder)
    return tokenizer


def test_the_chat_template_of_the_folder_is_used(tmp_path: Path) -> None:
    model = llava_next(text={"vocab_size": 400}, image_token_index=320)
    folder = saved(model, tmp_path)
    assert len(with_tokenizer(folder)) == 321
    (folder / "chat_template.json").write_text(
        json.dumps({"chat_template": CHAT_TEMPLATE_OF_PARTS})
    )
    pipe = hdvl.load(folder)
    template = pipe.template
    assert template.image_parts and template.image_token == "<image>"
    text = template.render(
        [Message("user", "What?", images=("a",))], add_generation_prompt=True
    ).text
    assert text == "[user] <image>\nWhat?<|im_end|>[assistant] "
    answer = pipe.chat("What?", images=[make_image(["gradient", 60, 40, 0])], max_new_tokens=2)
    assert isinstance(answer.text, str)


@pytest.mark.slow
def test_a_chat_template_of_plain_texts(tmp_path: Path) -> None:
    folder = saved(llava_next(text={"vocab_size": 400}, image_token_index=320), tmp_path)
    with_tokenizer(folder)
    jinja = (
        "{% for m in messages %}{{ '[' + m.role + '] ' + m.content + '<|im_end|>' }}{% endfor %}"
    )
    (folder / "chat_template.jinja").write_text(jinja)
    template = hdvl.load(folder).template
    assert not template.image_parts and not template.parts
    text = template.render([Message("user", "What?", images=("a",))]).text
    assert text == "[user] <image>\nWhat?<|im_end|>"


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    folder = saved(llava_next(text={"vocab_size": 400}), tmp_path)
    with_tokenizer(folder)
    with pytest.raises(ValueError, match="image_token_id=110 must be an added token"):
        load_published(folder)
    small = saved(llava_next(text={"vocab_size": 300}, image_token_index=299), tmp_path / "small")
    with_tokenizer(small)
    with pytest.raises(ValueError, match=r"image_token_id=299 must be an added token"):
        load_published(small)
