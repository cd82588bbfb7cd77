"""InternVL folders with processors: the ids, pixels, logits and answers of transformers' own classes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import hdvl
from hdvl.checkpoints.importers import detect, load_published
from hdvl.protocols import Message
from tests.design_equality import assert_equal, assert_same_answer, image, losses, talk
from tests.dynamic_tiles_reference import published_internvl

TALKS = [
    talk(),
    talk((60, 40)),
    talk((1, 90), (2, 2)),
    talk((500, 333), (7, 250), (113, 112)),
    [Message("system", "Be brief."), Message("user", "So?", images=(image(300, 1),))],
]
MOE = {"model_type": "qwen3_moe", "head_dim": 12, "num_experts": 4, "num_experts_per_tok": 2,
       "moe_intermediate_size": 24}  # fmt: skip
GPT_OSS = {"model_type": "gpt_oss", "head_dim": 12, "num_local_experts": 4, "sliding_window": 8}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("internvl") / "model"
    return folder, published_internvl(folder)[0]


def test_ids_pixels_and_logits_are_those_of_transformers(built: tuple[Path, Any]) -> None:
    folder, model = built
    assert detect(folder) == "internvl_hf"
    pipe = assert_equal(folder, model, *TALKS)
    template: Any = pipe.template
    assert (template.image_parts, template.image_prefix) == (True, "<img>")


@pytest.mark.slow
def test_answers_are_those_of_transformers(built: tuple[Path, Any]) -> None:
    assert_same_answer(*built)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"text": {"model_type": "qwen3", "head_dim": 16}, "vision_feature_layer": 2},
        {"text": MOE, "images": {"max_patches": 1}},
        {"text": GPT_OSS, "projector_hidden_act": "relu"},
        {"images": {"size": {"height": 42, "width": 42}, "min_patches": 3, "max_patches": 9}},
        {"images": {"resample": 2, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.1]}},
        {"images": {"do_normalize": False, "rescale_factor": 0.01}, "tie_word_embeddings": True},
        {
            "tower": {"image_size": 48, "patch_size": 6, "hidden_size": 24},
            "downsample_ratio": 0.25,
        },
    ],
    ids=str,
)
def test_numbers_are_those_of_the_folder(changes: dict[str, Any], tmp_path: Path) -> None:
    model, _ = published_internvl(tmp_path / "model", **changes)
    assert_equal(tmp_path / "model", model, talk((90, 50), (31, 200)))


@pytest.mark.slow
def test_a_folder_in_bfloat16(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    published_internvl(folder, dtype=torch.bfloat16)
    assert next(hdvl.load(folder).model.parameters()).dtype == torch.bfloat16
    assert load_published(folder, dtype=torch.float32).llm.width == 48


@pytest.mark.slow
def test_training_samples_have_the_same_loss_in_a_pack(built: tuple[Path, Any]) -> None:
    packed, apart = losses(hdvl.load(built[0]), talk((60, 40)), talk())
    assert packed == pytest.approx(apart, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": {"height": 28, "width": 56}}, "size={'height': 28, 'width': 56}"),
        ({"size": {"shortest_edge": 28}}, "size={'shortest_edge': 28}"),
        ({"resample": 0, "do_resize": False}, "do_resize=False; resample=0"),
        ({"do_rescale": False, "do_convert_rgb": False}, "do_convert_rgb=False; do_rescale=False"),
    ],
)
def test_what_is_not_read(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    published_internvl(folder)
    file = folder / "processor_config.json"
    told = json.loads(file.read_text())
    told["image_processor"].update(changes)
    file.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=message):
        load_published(folder)
