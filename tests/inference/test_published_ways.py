"""The prompt formats of the published systems, each with its own template, on a tiny model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hdvl.config import compose, to_plain
from hdvl.inference import Pipeline
from tests.inference.saying import say
from tests.tiny_model import tiny_node, tiny_vlm


def pipeline(template: str, **changes: Any) -> Pipeline:
    node = {**to_plain(compose(f"template={template}").template), **changes}
    return Pipeline(model=tiny_vlm(tiny_node() | {"template": node}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for index, size in enumerate([(70, 40), (20, 20), (96, 64)]):
        values = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(values).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def qwen() -> Pipeline:
    return pipeline("qwen_vl")


@pytest.mark.slow
def test_qwens_list_text_and_plain_call_are_one_prompt(qwen: Pipeline, folder: Path) -> None:
    first = folder / "0.png"
    listed = qwen.chat([{"image": first}, {"text": "What?"}], max_new_tokens=8)
    plain = qwen.chat("What?", images=first, max_new_tokens=8)
    typed = qwen.chat("Picture 1: <img>0.png</img>\nWhat?", image_folder=folder, max_new_tokens=8)
    assert listed.text == plain.text == typed.text
    assert listed.numbers.prompt_tokens == typed.numbers.prompt_tokens
    assert typed.images == (first,)
    bare = qwen.chat("<img>0.png</img>\nWhat?", image_folder=folder, max_new_tokens=8)
    assert bare.numbers.prompt_tokens < typed.numbers.prompt_tokens


def test_qwens_chat_goes_on(qwen: Pipeline, folder: Path) -> None:
    items = [{"image": folder / "0.png"}, {"text": "What?"}]
    answer = qwen.chat(items, max_new_tokens=4)
    second = qwen.chat("Where?", history=answer.history, max_new_tokens=4)
    pairs = qwen.chat("Where?", history=[(items, answer.text)], max_new_tokens=4)
    assert second.text == pairs.text and second.history == pairs.history
    assert second.numbers.visual_tokens == answer.numbers.visual_tokens > 0


def test_paths_in_text_need_the_folder(qwen: Pipeline) -> None:
    with pytest.raises(
        ValueError, match=r"must not hold control tokens, got \['</img>', '<img>'\]"
    ):
        qwen.chat("<img>0.png</img>\nWhat?")
    with pytest.raises(ValueError, match="must not hold control tokens"):
        qwen.stream("an <img> tag")


def test_turns_that_the_window_leaves_out(folder: Path) -> None:
    pipe = pipeline("qwen_vl", window=60)
    history = [([{"image": folder / "0.png"}, {"text": "What is it?"}], "long " * 30), ("B?", "b")]
    say(pipe, "<box>(0,0),(500,500)</box>")
    answer = pipe.chat("Where?", images=folder / "2.png", history=history)
    assert [str(image) for image in answer.images] == [str(folder / "2.png")]
    assert len(answer.plans) == 1 and len(answer.history) == 6
    assert answer.boxes[0].box == (0, 0, 48, 32) and answer.draw().size == (96, 64)
    sample = pipe.processor(answer.history[:-1], add_generation_prompt=True)
    assert sample.dropped == 2 and "long" not in pipe.tokenizer.decode(sample.ids)
    assert "B?" in pipe.tokenizer.decode(sample.ids)
    whole = pipe.processor(answer.history)  # training leaves nothing out
    assert whole.dropped == 0 and len(whole.plans) == 2


def test_internvls_prompts_with_several_images(folder: Path) -> None:
    pipe = pipeline("hermes2")
    files = [folder / "0.png", folder / "1.png"]
    tiles = [pipe.tiler.plan(70, 40).count, pipe.tiler.plan(20, 20).count]
    question = "Image-1: <image>\nImage-2: <image>\nCompare."
    say(pipe, "Image-1: <ref>cup</ref><box>[[0, 0, 500, 500]]</box>")
    answer = pipe.chat(question, images=files, num_patches_list=tiles)
    assert [plan.count for plan in answer.plans] == tiles
    assert answer.boxes[0].image == 0 and answer.boxes[0].box == (0, 0, 35, 20)
    text = pipe.template.render(answer.history[:-1], add_generation_prompt=True).text
    slot = "<img><IMG_CONTEXT></img>"
    assert text == (
        f"<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\nImage-1: {slot}\n"
        f"Image-2: {slot}\nCompare.<|im_end|><|im_start|>assistant\n"
    )
    with pytest.raises(ValueError, match="num_patches_list must be the tiles of each image"):
        pipe.chat(question, images=files, num_patches_list=[1, 1, 1])
    with pytest.raises(ValueError, match="num_patches_list must be"):
        pipe.stream(question, images=files, num_patches_list=[tiles[0] + 1, tiles[1]])
    with pytest.raises(ValueError, match=r"as many <image> as images, got 2 .* and 1 images"):
        pipe.chat(question, images=files[:1])


def test_internvls_question_without_a_marker_has_its_image_in_front(folder: Path) -> None:
    pipe = pipeline("hermes2_v2")
    say(pipe, "A cat.")
    answer = pipe.chat("What?", images=folder / "0.png")
    text = pipe.template.render(answer.history, add_generation_prompt=False).text
    assert "user\n<img><IMG_CONTEXT></img>\nWhat?<|im_end|><|im_start|>assistant\nA cat." in text
    assert text.startswith("<|im_start|>system\n你是由上海人工智能实验室")


def test_xverse_v_with_three_images(folder: Path) -> None:
    """The published code takes the third image's tiles from the wrong place."""
    pipe = pipeline("xverse_eval")
    files = [folder / f"{index}.png" for index in range(3)]
    say(pipe, "Yes.", end="<|endoftext|>")
    answer = pipe.chat("<image><image> and <image>?", images=files)
    assert answer.text == "Yes." and answer.numbers.tiles == sum(p.count for p in answer.plans)
    sample = pipe.processor(answer.history[:-1], add_generation_prompt=True)
    alone = [pipe.tiler(file).pixels for file in files]
    offset = 0
    for pixels in alone:
        assert (sample.pixels[offset : offset + len(pixels)] == pixels).all()
        offset += len(pixels)
    assert pipe.tokenizer.decode(sample.ids).startswith("Human: <ImageHere>")
    with pytest.raises(ValueError, match=r"must not hold control tokens, got .'<ImageHere>'"):
        pipe.chat("<ImageHere>\nWhat?")


def test_the_base_model_is_asked_in_its_own_words(folder: Path) -> None:
    pipe = pipeline("qwen_vl_base")
    say(pipe, " A cat.", end="<|endoftext|>")
    answer = pipe.chat("Describe the image in English:", images=folder / "1.png")
    text = pipe.template.render(answer.history[:-1], add_generation_prompt=True).text
    assert text == "<img><imgpad></img>Describe the image in English:"
    assert answer.text == " A cat."
