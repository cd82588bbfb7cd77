"""Aya Vision folders of transformers: the ids, pixels, logits and answers of its own classes."""

import json
from pathlib import Path
from typing import Any

import pytest

import hdvl
from hdvl.checkpoints.importers import detect, load_published
from hdvl.protocols import Message
from tests.design_equality import assert_equal, assert_same_answer, image, losses, talk
from tests.dynamic_tiles_reference import AYA_CHAT, published_aya_vision

TALKS = [
    talk(),
    talk((60, 40)),
    talk((1, 90), (2, 2)),
    talk((500, 333), (7, 250), (113, 112)),
    [Message("system", "Be brief."), Message("user", "So?", images=(image(300, 1),))],
]
NAMES = {"image_token": "[IMAGE]", "tile_token": "{T}", "tile_global_token": "WHOLE"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("aya")
    return folder, published_aya_vision(folder)[0]


def test_ids_pixels_and_logits_are_those_of_transformers(built: tuple[Path, Any]) -> None:
    folder, model = built
    assert detect(folder) == "aya_vision"
    assert model.config.text_config.logit_scale != 1  # its class does not scale the logits
    assert_equal(folder, model, *TALKS)


@pytest.mark.slow
def test_answers_are_those_of_transformers(built: tuple[Path, Any]) -> None:
    assert_same_answer(*built)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"downsample_factor": 1, "vision_feature_layer": -2, "alignment_intermediate_size": 64},
        {"text": {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 5}},
        {"text": {"model_type": "qwen3", "head_dim": 12}, "tie_word_embeddings": False},
        {"tower": {"image_size": 42, "hidden_size": 24}, "downsample_factor": 3},
        {"images": {"max_patches": 1, "resample": 1}, "adapter_layer_norm_eps": 1e-2},
        {"processor": NAMES, "chat": AYA_CHAT.replace("<image>", "[IMAGE]")},
    ],
    ids=str,
)
def test_numbers_are_those_of_the_folder(changes: dict[str, Any], tmp_path: Path) -> None:
    model, _ = published_aya_vision(tmp_path, **changes)
    assert_equal(tmp_path, model, talk((90, 50), (31, 200)))


@pytest.mark.slow
def test_training_samples_have_the_same_loss_in_a_pack(
    built: tuple[Path, Any], tmp_path: Path
) -> None:
    published_aya_vision(tmp_path, text={"sliding_window": 100})
    packed, apart = losses(hdvl.load(tmp_path), talk((60, 40)), talk())
    assert packed == pytest.approx(apart, abs=1e-5)
    with pytest.raises(ValueError, match="must fit the sliding window of 16 tokens"):
        losses(hdvl.load(built[0]), talk((60, 40)), talk())


@pytest.mark.parametrize(
    ("file", "part", "changes", "message"),
    [
        ("config.json", None, {"vision_feature_select_strategy": "default"}, "strategy=default"),
        ("config.json", None, {"vision_feature_layer": [-1, -2]}, r"got \[-1, -2\]"),
        ("config.json", None, {"image_token_index": 1}, r"id of the processor's '<\|IMG_PATCH\|>'"),
        ("config.json", "vision_config", {"image_size": 56}, "size of the image processor=28"),
        ("config.json", "text_config", {"model_type": "gemma2"}, "text_config.model_type=gemma2"),
    ],
)
def test_what_is_not_read(
    file: str, part: str | None, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    published_aya_vision(tmp_path)
    told = json.loads((tmp_path / file).read_text())
    (told if part is None else told[part]).update(changes)
    (tmp_path / file).write_text(json.dumps(told))
    with pytest.raises(ValueError, match=message):
        load_published(tmp_path)
