"""Stand-ins for what tools/fetch_laptop_parts.py fetches: the same files and names, with small contents."""

from pathlib import Path

import timm
import torch
from fetch_laptop_parts import WHEELS, write_rows
from PIL import Image

from tests.llms import tiny_llm
from tests.llms.gguf_files import write_gguf

COLOURS = {"A": "wheat", "E": "orange", "P": "steelblue"}
"""The colour of the pictures of a kind of food, by the letter of its codes."""
TOP = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
TOP |= {"classifier": "_fc"}
FIRST = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
OTHERS = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
OTHERS |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}


def write_parts(folder: Path, *, pictures: int = 10) -> Path:
    """Write a tiny language model, an EfficientNet-Lite0 with random weights, and pictures of one colour."""
    files = {suffix: name for suffix, name, _ in WHEELS.values()}
    (folder / "pictures").mkdir(parents=True)
    torch.manual_seed(0)
    llm = tiny_llm.make("llama", tokenizer_size=512, intermediate_size=64)
    write_gguf(llm, folder / files[".gguf"])
    model = timm.create_model("tf_efficientnet_lite0")
    torch.save(package_names(model.state_dict()), folder / files[".pth"])
    for letter, colour in COLOURS.items():
        for number in range(pictures):
            picture = Image.new("RGB", (160 + 8 * number, 120), colour)
            picture.save(folder / "pictures" / f"{letter}{number:03}.jpeg")
    write_rows(folder)
    return folder


def package_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights under the names that the package of EfficientNet-Lite0 gives them."""
    blocks = dict.fromkeys(tuple(name.split(".")[1:3]) for name in state if name[:6] == "blocks")
    found = {}
    for name, value in state.items():
        words = name.split(".")
        if words[0] == "blocks":
            number = list(blocks).index((words[1], words[2]))
            layer = (OTHERS if number else FIRST)[words[3]]
            words = [f"_blocks.{number}.{layer}", *words[4:]]
        else:
            words[0] = TOP[words[0]]
        found[".".join(words)] = value
    return found
