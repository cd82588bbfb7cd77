"""LLaVA-1.5 and LLaVA-OneVision folders: the ids, pixels, logits and answers of transformers' classes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import hdvl
from hdvl.checkpoints.importers import detect, load_published
from hdvl.mergers import Spatial
from hdvl.processor import collate, pack
from hdvl.protocols import Message
from tests import llava_reference as reference
from tests.llava_reference import noise, talk
from tests.mean_loss import mean_loss

KINDS = list(reference.KINDS_OF_MODEL)


def assert_equal(
    folder: Path, model: Any, processor: Any, *talks: Sequence[Message], limit: float = 1e-4
) -> None:
    """Ids are equal, pixels but for rounding, logits within ``limit`` for each of ``talks``."""
    pipe = hdvl.load(folder)
    encoder: Any = pipe.model.encoder
    for messages in talks:
        ours = pipe.processor(messages, add_generation_prompt=True)
        theirs = reference.inputs(processor, messages)
        assert ours.ids.tolist() == theirs["input_ids"][0].tolist()
        if "pixel_values" in theirs:
            wanted = reference.views(theirs, [plan.count for plan in ours.plans])
            pixels = encoder.pixels(ours.pixels, torch.float32)
            torch.testing.assert_close(pixels, wanted, atol=1e-5, rtol=0)
        with torch.no_grad():
            logits = model(**theirs).logits[0]
        torch.testing.assert_close(pipe.logits(messages), logits, atol=limit, rtol=0)


Built = tuple[Path, Any, Any]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """(folder, model, processor) of each kind."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    return {
        kind: (folder, *reference.KINDS_OF_MODEL[kind](folder)) for kind, folder in folders.items()
    }


@pytest.fixture(params=KINDS)
def built(request: Any, both: dict[str, Built]) -> Built:
    return both[request.param]


SIZES = [
    [],
    [(60, 40)],
    [(28, 28)],
    [(1, 90)],
    [(90, 1)],
    [(300, 31)],
    [(3, 2), (300, 1)],
    [(500, 333), (7, 250), (113, 112)],
]


@pytest.mark.slow_beyond(1)
def test_ids_pixels_and_logits_are_those_of_transformers(built: Built) -> None:
    folder, model, processor = built
    assert detect(folder) == model.config.model_type
    assert_equal(folder, model, processor, *(talk(*sizes) for sizes in SIZES))


@pytest.mark.slow_beyond(1)
def test_answers_are_those_of_transformers(built: Built) -> None:
    folder, model, processor = built
    for images in ((noise(90, 50),), (noise(90, 50), noise(30, 70))):
        theirs = reference.inputs(processor, [Message("user", "Say.", images=images)])
        whole = model.generate(**theirs, max_new_tokens=12, do_sample=False)
        new = whole[0, theirs["input_ids"].shape[1] :]
        answer = hdvl.load(folder).chat("Say.", images=images, max_new_tokens=12)
        assert answer.text.strip() == processor.decode(new, skip_special_tokens=True).strip()


SIGLIP = {"model_type": "siglip_vision_model", "vision_use_head": False}
CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("llava", {"images": {"do_pad": True}}),
    ("llava", {"images": {"do_pad": True, "do_center_crop": False}, "words": "trimmed"}),
    ("llava", {"processor": "clip", "images": {"size": {"shortest_edge": 41}}}),
    ("llava", {"processor": "clip", "images": {"size": {"shortest_edge": 19}, "do_pad": True}}),
    ("llava", {"processor": "clip", "images": {"size": {"height": 28, "width": 28}}}),
    ("llava", {"images": {"resample": 2, "image_mean": [0.1, 0.2, 0.3], "do_normalize": False}}),
    (
        "llava",
        {
            **{"processor": "siglip", "tower": {**SIGLIP, "image_size": 45, "patch_size": 9}},
            **{"vision_feature_layer": -1, "vision_feature_select_strategy": "full"},
        },
    ),
    ("llava", {"vision_feature_layer": 1, "projector_hidden_act": "relu"}),
    ("llava", {"multimodal_projector_bias": False, "projector_hidden_act": "gelu_pytorch_tanh"}),
    ("llava", {"text": {"model_type": "qwen2", "tie_word_embeddings": True, "hidden_size": 32}}),
    ("llava", {"text": {"model_type": "mistral", "sliding_window": 9}, "words": "byte_level"}),
    ("llava_onevision", {"most": 1, "vision_feature_layer": -2}),
    ("llava_onevision", {"most": 9, "grids": [(4, 4), (1, 1), (2, 1), (1, 5)]}),
    (
        "llava_onevision",
        {
            **{"tower": {"model_type": "clip_vision_model", "image_size": 40, "patch_size": 8}},
            **{"vision_feature_select_strategy": "default", "words": "metaspace"},
        },
    ),
    (
        "llava_onevision",
        {
            **{"text": {"tie_word_embeddings": True}, "multimodal_projector_bias": False},
            **{"images": {"resample": 1, "image_mean": [0.3, 0.2, 0.9]}},
        },
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "changes"), CHANGES, ids=str)
def test_numbers_are_those_of_the_folder(
    kind: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    model, processor = reference.KINDS_OF_MODEL[kind](tmp_path, **changes)
    talks = [talk((90, 50)), talk((31, 200), (3, 50)), talk((28, 28))]
    assert_equal(tmp_path, model, processor, *talks)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_in_bfloat16(kind: str, tmp_path: Path) -> None:
    model, processor = reference.KINDS_OF_MODEL[kind](tmp_path, dtype=torch.bfloat16)
    pipe = hdvl.load(tmp_path)
    assert next(pipe.model.parameters()).dtype == torch.bfloat16
    wide = hdvl.load(tmp_path, dtype="float32")
    theirs = reference.inputs(processor, talk((60, 40)))
    with torch.no_grad():
        rounded = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)(**theirs).logits[0]
        wanted = type(model).from_pretrained(tmp_path, dtype=torch.float32)(**theirs).logits[0]
    torch.testing.assert_close(pipe.logits(talk((60, 40))), rounded.float(), atol=0.05, rtol=0)
    torch.testing.assert_close(wide.logits(talk((60, 40))), wanted, atol=1e-4, rtol=0)


def changed(folder: Path, file: str, **values: Any) -> None:
    """Values of a JSON file replaced; those of the image processor by ``images``."""
    config = json.loads((folder / file).read_text())
    config.get("image_processor", {}).update(values.pop("images", {}))
    (folder / file).write_text(json.dumps(config | values))


REFUSED = [
    (
        "llava",
        {"vision_feature_layer": [-2, -3]},
        {},
        r"vision_feature_layer must .* got \[-2, -3\]",
    ),
    ("llava", {"vision_feature_layer": 0}, {}, r"vision_feature_layer must .* got 0"),
    ("llava", {"vision_feature_select_strategy": "full"}, {}, "select_strategy=full .only default"),
    ("llava", {"projector_hidden_act": "wavy"}, {}, "activation must be a known name, got 'wavy'"),
    ("llava", {}, {"do_resize": False}, "do_resize=False"),
    ("llava", {}, {"resample": 0}, "resample=0"),
    ("llava", {}, {"size": {"shortest_edge": 29}, "do_pad": True}, "crop_size={'height': 28"),
    ("llava", {}, {"crop_size": {"height": 14, "width": 14}}, "crop_size={'height': 14"),
    ("llava", {}, {"do_center_crop": False}, "size={'shortest_edge': 28}"),
    ("llava", {}, {"image_processor_type": "PixtralImageProcessor"}, "got 'PixtralImageProcessor'"),
    ("llava_onevision", {"vision_aspect_ratio": "anyres"}, {}, "must be anyres_max_N"),
    ("llava_onevision", {"vision_aspect_ratio": "anyres_max_3"}, {}, "'anyres_max_2'"),
    ("llava_onevision", {}, {"image_grid_pinpoints": [[28, 56]]}, r"image_grid_pinpoints=\[\[28"),
    ("llava_onevision", {}, {"size": {"height": 29, "width": 29}}, "size={'height': 29"),
]


@pytest.mark.parametrize(("kind", "config", "images", "message"), REFUSED, ids=str)
def test_what_cannot_be_equal_is_refused_by_name(
    kind: str,
    config: dict[str, Any],
    images: dict[str, Any],
    message: str,
    both: dict[str, Built],
    tmp_path: Path,
) -> None:
    source = both[kind][0]
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    changed(tmp_path, "config.json", **config)
    changed(tmp_path, "processor_config.json", images=images)
    with pytest.raises(ValueError, match=message):
        load_published(tmp_path)


@pytest.mark.slow
def test_tied_embeddings_that_the_text_configuration_alone_names(tmp_path: Path) -> None:
    model, processor = reference.onevision(tmp_path, text={"tie_word_embeddings": True})
    changed(tmp_path, "config.json", tie_word_embeddings=False)
    assert_equal(tmp_path, model, processor, talk((90, 50)))


@pytest.mark.slow_beyond(1)
def test_without_a_processor_the_middle_is_cut_out(built: Built, tmp_path: Path) -> None:
    source, model, _ = built
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((source / file).read_bytes())
    vlm = load_published(tmp_path)
    tiler: Any = vlm.tiler
    assert tiler.backend == "exact" and vlm.llm.tokenizer is None
    if model.config.model_type == "llava":
        assert tiler.fit == "crop" and tiler.shortest_edge is None
    else:
        assert isinstance(vlm.merger, Spatial) and vlm.merger.shrink_above == 2
        assert tiler.several_padding == tuple(int(level * 255) for level in vlm.encoder.mean)


@pytest.mark.slow_beyond(1)
def test_packed_rows_have_the_same_loss(built: Built) -> None:
    pipe = hdvl.load(built[0])
    talks = [talk((90, 50)), talk((40, 40), (10, 60)), talk()]
    samples = [pipe.processor([*messages, Message("assistant", "Yes.")]) for messages in talks]
    with torch.no_grad():
        apart = mean_loss(pipe.model, collate(samples, pad_id=0))
        packed = mean_loss(pipe.model, pack(samples))
    torch.testing.assert_close(packed, apart, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_new_parts_on_a_loaded_model(built: Built) -> None:
    folder, model, _ = built
    newline = model.config.model_type == "llava_onevision"
    tiler = {
        "_target_": "hdvl.tilers.SlidingWindow",
        "tile_size": 28,
        "stride": 14,
        "multiple_of": 7,
    }
    merger = {"_target_": "hdvl.mergers.OverlapBlend", "_partial_": True, "newline": newline}
    pipe = hdvl.load(folder, tiler=tiler, merger=merger)
    answer = pipe.chat("Say.", images=[noise(90, 50), noise(20, 30)], max_new_tokens=2)
    assert isinstance(answer.text, str)
