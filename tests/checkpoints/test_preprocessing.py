"""Changes of the preprocessing are detected."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hdvl.checkpoints import load_folder, preprocessing, verify
from tests.tiny_model import tiny_node, tiny_vlm


def test_preprocessing_of_a_saved_model_is_unchanged(tiny_folder: Path) -> None:
    assert verify(tiny_folder, load_folder(tiny_folder)) == []


def test_golden_images_never_change() -> None:
    image = preprocessing.golden_image(97, 61)
    assert image.shape == (61, 97, 3) and image.dtype == np.uint8
    assert int(image.astype(np.int64).sum()) == 1949424


def test_numbers_grids_and_filters_that_drift(tiny_folder: Path) -> None:
    encoder = tiny_vlm(tiny_node(encoder={"mean": [0.4, 0.5, 0.5]}))
    assert verify(tiny_folder, encoder) == ["encoder mean was [0.5, 0.5, 0.5], is [0.4, 0.5, 0.5]"]
    tiler = tiny_vlm(tiny_node(tiler={"max_tiles": 4}))
    assert any("plan was" in line for line in verify(tiny_folder, tiler))


@pytest.mark.slow
def test_pixels_that_drift(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny_folder, folder)
    file = folder / "preprocessing.json"
    stored = json.loads(file.read_text())
    stored["golden"][0]["sha256"] = "0" * 64
    file.write_text(json.dumps(stored))
    vlm = load_folder(folder)  # other bits, the same means: another processor, no drift
    assert verify(folder, vlm) == []
    stored["golden"][0]["tile_means"][1] += 2
    file.write_text(json.dumps(stored))
    with pytest.warns(
        UserWarning, match=r"differs from that at saving: image of 97x61: .* moved by 2.00"
    ):
        load_folder(folder)
    load_folder(folder, check=False)
    load_folder(folder, overrides={"tiler": {"max_tiles": 5}})


def test_no_record(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny_folder, folder)
    (folder / "preprocessing.json").unlink()
    with pytest.raises(ValueError, match=r"has no preprocessing.json; save the model again"):
        load_folder(folder)
