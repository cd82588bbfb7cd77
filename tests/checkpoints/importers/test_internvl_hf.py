"""InternVL folders of transformers: its own logits, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hdvl.checkpoints.importers import detect, load_published
from hdvl.model import VLM
from tests.golden_files import make_image
from tests.native_models import internvl


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def both(model: Any, vlm: VLM, sizes: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """(hdvl's logits, transformers' logits) of one prompt with an image of each size."""
    tiles = [vlm.tiler(make_image(["gradient", *size, k])) for k, size in enumerate(sizes)]
    plans, pixels = [item.plan for item in tiles], torch.cat([item.pixels for item in tiles])
    ids = [3, 4]
    for plan in plans:
        ids += [vlm.image_token_id] * vlm.merger.token_count(plan) + [9]
    ids_ = torch.tensor([[*ids, 5]])
    with torch.no_grad():
        wanted = model(ids_, pixel_values=vlm.encoder.pixels(pixels, torch.float32))
        return vlm(ids_, pixels, plans).logits, wanted.logits


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vision_feature_layer": -2},
        {"tower": {"norm_type": "layer_norm", "use_qk_norm": False, "attention_bias": True}},
        {"text": {"model_type": "qwen2"}, "tie_word_embeddings": True},
        {"text": {"model_type": "qwen3", "head_dim": 12}},
    ],
    ids=str,
)
def test_logits_are_transformers_own(changes: dict[str, Any], tmp_path: Path) -> None:
    model = internvl(**changes)
    folder = saved(model, tmp_path / "internvl")
    assert detect(folder) == "internvl_hf"
    vlm = load_published(folder)
    assert (vlm.image_token_id, list(vlm.llm.stop_ids)) == (110, [7])
    for sizes in ([(50, 40)], [(90, 30), (30, 100), (60, 60)]):
        found, wanted = both(model, vlm, sizes)
        torch.testing.assert_close(found, wanted, atol=5e-5, rtol=0)


@pytest.mark.slow
def test_the_head_is_tied_as_the_file_says_else_as_it_is_stored(tmp_path: Path) -> None:
    """transformers ties by default, and drops a separate head that the configuration does not mention."""
    folder = saved(internvl(), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    llm = load_published(folder).llm.model
    assert llm.get_output_embeddings().weight is not llm.get_input_embeddings().weight


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("settings", "tiler", "most"),
    [
        ({"max_patches": 1}, "DynamicRatio", 1),
        ({"max_patches": 6, "min_patches": 2}, "DynamicRatio", 6),
        ({}, "DynamicRatio", 12),
    ],
)
def test_tiles_are_those_of_the_image_processor(
    settings: dict[str, Any], tiler: str, most: int, tmp_path: Path
) -> None:
    folder = saved(internvl(), tmp_path)
    size = {"size": {"height": 28, "width": 28}}
    told = {"image_processor": {**settings, **size, "image_mean": [0.1, 0.2, 0.3]}}
    (folder / "processor_config.json").write_text(json.dumps(told))
    vlm = load_published(folder)
    assert (type(vlm.tiler).__name__, vlm.tiler.max_tiles) == (tiler, most)
    assert vlm.encoder.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("vision_config", {"use_mean_pooling": False}, "use_mean_pooling=False"),
        ("vision_config", {"layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05"),
        ("vision_config", {"image_size": [28, 56]}, "different sides in image_size=2"),
        (None, {"vision_feature_select_strategy": "full"}, "select_strategy=full"),
        (None, {"vision_feature_layer": 0}, "one of 3 blocks, 1..3 or -3..-1, got 0"),
        (None, {"vision_feature_layer": [-1, -2]}, r"got \[-1, -2\]; hdvl does not join"),
        (None, {"downsample_ratio": 0.4}, "downsample_ratio=0.4 is a whole number=False"),
        ("text_config", {"model_type": "cohere2"}, r"model_type=cohere2 \(only llama, .*gpt_oss"),
    ],
)
def test_what_is_not_read(
    part: str | None, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = saved(internvl(), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (config if part is None else config[part]).update(changes)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load_published(folder)
