"""Layers on several devices and on the disk: the same answers, and clear errors otherwise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hdvl.chosen_model import pipeline_of
from hdvl.config import compose, resolve
from hdvl.inference.load import load
from hdvl.placement import layers_of
from tests.tiny_model import tiny_folder, tiny_vlm

__all__ = ["tiny_folder"]
LAYERS = list(layers_of(tiny_vlm()))
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)


def answers(pipe: Any) -> list[str]:
    """Answers of several lengths, together and one after the other."""
    prompts = ["What?", "Where is it then?", "No"]
    turns = [
        [
            {
                "role": "user",
                "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": text}],
            }
        ]
        for text in prompts
    ]
    together = pipe.generate(turns, max_new_tokens=9)
    alone = [pipe.chat(text, IMAGE, max_new_tokens=9) for text in prompts]
    return [answer.text for answer in (*together, *alone)]


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    "placed",
    [
        {"others": "cpu", LAYERS[1]: "disk"},
        {"encoder": "cpu", "bridge": "cpu", "merger": "cpu", "llm": "cpu", LAYERS[0]: "disk"},
    ],
)
def test_layers_on_the_disk_answer_the_same(
    placed: dict[str, str], tiny_folder: Path, tmp_path: Path
) -> None:
    pipe = load(tiny_folder, device_map=placed, offload_folder=str(tmp_path))
    held = {name: value.is_meta for name, value in pipe.model.named_parameters()}
    gone = next(name for name, device in placed.items() if device == "disk")
    assert all(is_meta == name.startswith(gone) for name, is_meta in held.items())
    assert list(tmp_path.rglob("*.dat"))
    assert answers(pipe) == answers(load(tiny_folder))
    del pipe


def test_auto_fills_one_place_after_the_other(tiny_folder: Path, tmp_path: Path) -> None:
    plain = load(tiny_folder, device_map="auto")  # all of it fits into the memory of this machine
    assert not any(value.is_meta for value in plain.model.parameters())
    size = {
        name: sum(p.numel() * 4 for p in one.parameters())
        for name, one in layers_of(plain.model).items()
    }
    held = {id(one): one for one in (*plain.model.parameters(), *plain.model.buffers())}
    whole = sum(one.numel() * one.element_size() for one in held.values())
    room = {"cpu": whole - size[LAYERS[1]] + 64}
    with pytest.raises(
        ValueError, match=r"offload_folder must be given, \d of 2 layers go to the disk"
    ):
        load(tiny_folder, device_map="auto", max_memory=room)
    pipe = load(tiny_folder, device_map="auto", max_memory=room, offload_folder=str(tmp_path))
    assert any(value.is_meta for value in pipe.model.parameters())
    assert answers(pipe) == answers(plain)
    with pytest.raises(
        ValueError, match=r"the model does not fit: .* on device cpu, which has 0\.00 GiB"
    ):
        load(tiny_folder, device_map="auto", max_memory={"cpu": 1000})


@pytest.mark.slow_beyond(3)
@pytest.mark.parametrize(
    ("placed", "message"),
    [
        ("balanced", r"device_map must be auto, or a mapping"),
        (
            {"others": "cpu", "decoder": "disk"},
            r"device_map names 'decoder', which is no module; there are encoder",
        ),
        ({"others": "tpu"}, r"device must be cpu, cuda"),
        ({"llm": "cpu"}, r"device_map must name a device for encoder"),
        (
            {"others": "disk"},
            r"everything but the layers of the language model on one device, got .* on disk",
        ),
        ({"others": "cpu", "merger": "disk"}, r"on one device, got encoder on cpu, merger on disk"),
    ],
)
def test_maps_that_are_refused(placed: Any, message: str, tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load(tiny_folder, device_map=placed)


def test_what_cannot_be_combined(tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="device_map cannot be combined with device;"):
        load(tiny_folder, device_map="auto", device="cpu")
    with pytest.raises(ValueError, match="device_map cannot be combined with quantisation;"):
        load(tiny_folder, device_map="auto", quantisation="int8")
    words = ["checkpoint=null", "device_map=auto"]
    with pytest.raises(ValueError, match="device_map needs a checkpoint"):
        pipeline_of(resolve(compose(*words, config_name="infer")), words)
    words = [f"checkpoint={tiny_folder}", f"device_map={{others:cpu,{LAYERS[0]}:cpu}}"]
    pipe = pipeline_of(resolve(compose(*words, config_name="infer")), words)
    assert pipe.chat("What?", max_new_tokens=2).numbers.new_tokens == 2
