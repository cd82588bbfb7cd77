"""Recorded outputs of the published reference implementations (tests/golden), and their inputs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.golden.reference_weights import reference_tensor

FOLDER = Path(__file__).parent / "golden"


def golden(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the numbers of a pair."""
    told = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return told, load_file(FOLDER / f"{name}.safetensors")


def reference_state(manifest: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The weights of a manifest: they follow from key and shape."""
    return {
        key: torch.from_numpy(reference_tensor(key, tuple(shape)))
        for key, shape in manifest.items()
    }


def make_image(spec: Sequence[Any]) -> Image.Image:
    """The image that ``["gradient", width, height, k]`` stands for."""
    kind, width, height, k = spec
    assert kind == "gradient"
    y, x = np.mgrid[0:height, 0:width]
    red = x * 255 // (width - 1) if width > 1 else 0 * x
    green = y * 255 // (height - 1) if height > 1 else 0 * y
    blue = np.where((x // 16 + y // 16 + k) % 2 == 1, 255, 0)
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def write_published(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Path:
    """A folder as others publish: config.json and one safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(
        {key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors"
    )
    return folder
