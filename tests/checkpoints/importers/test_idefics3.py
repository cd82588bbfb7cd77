"""Idefics3 and SmolVLM folders of transformers: the ids, pixels, logits and answers of its own classes."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

import hdvl
from hdvl.checkpoints.importers import detect, load_published
from hdvl.processor import collate, pack
from hdvl.protocols import Message
from tests import idefics3_reference as reference
from tests.mean_loss import mean_loss

KINDS = ["idefics3", "smolvlm"]


def image(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng([width, height, seed]).integers(
        0, 256, (height, width, 3), np.uint8
    )
    return Image.fromarray(noise)


def talk(*sizes: tuple[int, int]) -> list[Message]:
    """A talk of three turns about images of ``sizes``, the second of them inside of the text."""
    images = [image(*size, seed) for seed, size in enumerate(sizes)]
    text = "See <image> and <image>, 合计?" if len(images) == 3 else "What?"
    return [
        Message("user", "What is\nthis?", images=tuple(images[:1])),
        Message("assistant", "A page."),
        Message("user", text, images=tuple(images[1:])),
    ]


def assert_equal(folder: Path, model: Any, processor: Any, talk: Sequence[Message]) -> float:
    """The largest difference of the logits; ids and pixels are equal, bit for bit."""
    pipe = hdvl.load(folder)
    ours = pipe.processor(talk, add_generation_prompt=True)
    theirs = reference.inputs(processor, talk)
    assert ours.ids.tolist() == theirs["input_ids"][0].tolist()
    if "pixel_values" in theirs:
        pixels = pipe.model.encoder.pixels(ours.pixels, torch.float32)
        torch.testing.assert_close(pixels, theirs["pixel_values"][0], atol=1e-6, rtol=0)
    with torch.no_grad():
        wanted = model(**theirs).logits[0]
    found = pipe.logits(talk)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    return float((found - wanted).abs().max())


@pytest.fixture(scope="module", params=KINDS)
def built(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    folder = tmp_path_factory.mktemp(request.param)
    return folder, *reference.published(request.param, folder)


SIZES = [
    [],
    [(60, 40)],
    [(28, 28)],
    [(1, 90)],
    [(300, 1), (2, 2)],
    [(500, 333), (7, 250), (113, 112)],
]


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_ids_pixels_and_logits_are_those_of_transformers(
    sizes: list[tuple[int, int]], built: tuple[Path, Any, Any]
) -> None:
    folder, model, processor = built
    assert detect(folder) == model.config.model_type
    assert_equal(folder, model, processor, talk(*sizes))


@pytest.mark.slow_beyond(1)
def test_answers_are_those_of_transformers(built: tuple[Path, Any, Any]) -> None:
    folder, model, processor = built
    question = [Message("user", "Say.", images=(image(90, 50), image(30, 70)))]
    theirs = reference.inputs(processor, question)
    wanted = model.generate(**theirs, max_new_tokens=12, do_sample=False)
    new = wanted[0, theirs["input_ids"].shape[1] :]
    answer = hdvl.load(folder).chat("Say.", images=question[0].images, max_new_tokens=12)
    assert answer.text.strip() == processor.decode(new, skip_special_tokens=True).strip()


CHANGES = [
    {"images": {"do_image_splitting": False}, "text": {"model_type": "qwen2"}},
    {"tie_word_embeddings": True, "text": {"tie_word_embeddings": False}},
    {"tower": {"image_size": 54, "patch_size": 5}, "images": {"size": {"longest_edge": 130}}},
    {
        "tower": {"image_size": 98, "hidden_act": "gelu"},
        "images": {"max_image_size": {"longest_edge": 42}, "size": {"longest_edge": 100}},
    },
    {"tower": {"image_size": 42}, "scale_factor": 3, "images": {"resample": 3}},
    {"images": {"resample": 2, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.1]}},
    {"images": {"do_normalize": False, "do_pad": False, "size": {"longest_edge": 20}}},
]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "changes"), list(enumerate(CHANGES)), ids=str)
def test_numbers_are_those_of_the_folder(
    number: int, changes: dict[str, Any], tmp_path: Path
) -> None:
    model, processor = reference.published(KINDS[number % 2], tmp_path, **changes)
    assert_equal(tmp_path, model, processor, talk((90, 50), (31, 200)))


@pytest.mark.slow
def test_a_folder_in_bfloat16(tmp_path: Path) -> None:
    model, processor = reference.published("smolvlm", tmp_path, dtype=torch.bfloat16)
    pipe = hdvl.load(tmp_path)
    assert next(pipe.model.parameters()).dtype == torch.bfloat16
    theirs = reference.inputs(processor, talk((60, 40)))
    with torch.no_grad():
        wanted = model(**theirs).logits[0].float()
    torch.testing.assert_close(pipe.logits(talk((60, 40))), wanted, atol=0.05, rtol=0)


@pytest.mark.slow
def test_tokens_are_those_that_the_tokenizer_names(tmp_path: Path) -> None:
    names = {"fake_image_token": "<{f}>", "global_image_token": "<whole>", "image_token": "<img>"}
    words = reference.tokenizer(["<end_of_utterance>", *names.values(), *reference.GRID])
    words.save_pretrained(tmp_path / "words")
    words = AutoTokenizer.from_pretrained(tmp_path / "words", extra_special_tokens=names)
    chat = reference.CHAT.replace("<image>", "<img>")
    model, processor = reference.published("smolvlm", tmp_path, words=words, chat=chat)
    assert_equal(tmp_path, model, processor, talk((60, 40)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_files_of_the_first_releases(kind: str, tmp_path: Path) -> None:
    """Earlier releases have other key names, other files, and keys of the training code."""
    model, processor = reference.published(kind, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"] |= {"model_type": kind, "use_base_siglip": False}
    theta = config["text_config"].pop("rope_parameters")["rope_theta"]
    config["text_config"] |= {"rope_theta": theta, "rope_scaling": None, "use_resampler": False}
    told = json.loads((tmp_path / "processor_config.json").read_text())
    chat = {"chat_template": (tmp_path / "chat_template.jinja").read_text()}
    (tmp_path / "chat_template.jinja").unlink()
    for name, content in (
        ("config.json", config),
        ("preprocessor_config.json", told["image_processor"]),
        ("processor_config.json", {"image_seq_len": told["image_seq_len"]}),
        ("chat_template.json", chat),
    ):
        (tmp_path / name).write_text(json.dumps(content))
    assert_equal(tmp_path, model, processor, talk((60, 40), (20, 90)))


@pytest.mark.slow
def test_training_samples_have_the_same_loss_in_a_pack(built: tuple[Path, Any, Any]) -> None:
    pipe = hdvl.load(built[0])
    ends = [[*talk((60, 40)), Message("assistant", "Yes.")], [*talk(), Message("assistant", "No.")]]
    samples = [pipe.processor(item) for item in ends]
    for sample in samples:
        said = pipe.tokenizer.decode(sample.ids[sample.labels != -100])
        assert said.count("<end_of_utterance>") == 2
    with torch.no_grad():
        apart = mean_loss(pipe.model, collate(samples, pad_id=0))
        torch.testing.assert_close(mean_loss(pipe.model, pack(samples)), apart, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("file", "part", "changes", "message"),
    [
        ("config.json", "vision_config", {"num_channels": 1}, "vision_config.num_channels=1"),
        ("config.json", "vision_config", {"image_size": [28, 28]}, "vision_config.image_size=list"),
        ("processor_config.json", "image_processor", {"do_resize": False}, "do_resize=False"),
        ("processor_config.json", "image_processor", {"rescale_factor": 1}, "rescale_factor=1"),
        ("processor_config.json", "image_processor", {"resample": 0}, "resample=0"),
        (
            "processor_config.json",
            "image_processor",
            {"size": {"height": 9, "width": 9}},
            "size={'height",
        ),
        ("processor_config.json", None, {"image_seq_len": 5}, "must be the 4 tokens .* got 5"),
        ("config.json", None, {"image_token_id": 1}, "must be the id of the processor's '<image>'"),
    ],
)
def test_what_is_not_read(
    file: str,
    part: str | None,
    changes: dict[str, Any],
    message: str,
    built: tuple[Path, Any, Any],
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(built[0], tmp_path / "copy")
    told = json.loads((folder / file).read_text())
    (told if part is None else told[part]).update(changes)
    (folder / file).write_text(json.dumps(told))
    with pytest.raises(ValueError, match=message):
        load_published(folder)
