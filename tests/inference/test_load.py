"""Loading by folder and by name."""

import shutil
from pathlib import Path

import pytest
import torch

import hdvl
from hdvl.checkpoints.sources import ASSETS, find_folder
from hdvl.inference.load import load
from hdvl.precision import frequencies


def test_a_folder_with_overrides(tiny_folder: Path) -> None:
    pipe = hdvl.load(str(tiny_folder), tiler={"max_tiles": 3}, encode_chunk=2)
    assert pipe.tiler.max_tiles == 3 and pipe.model.encode_chunk == 2
    assert pipe.tiler is pipe.model.tiler


def test_device_and_dtype(tiny_folder: Path) -> None:
    pipe = load(tiny_folder, device="cpu", dtype="bfloat16")
    assert {p.dtype for p in pipe.model.parameters()} == {torch.bfloat16}
    assert pipe.chat("What?", max_new_tokens=2).numbers.new_tokens <= 2
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16 or null"):
        load(tiny_folder, dtype="int7")


def test_angles_of_a_loaded_model_are_those_of_float32(tiny_folder: Path) -> None:
    exact = frequencies(load(tiny_folder).model)
    rounded = frequencies(load(tiny_folder, dtype="bfloat16").model)
    assert exact.keys() == rounded.keys() and exact
    for name, value in exact.items():
        assert torch.equal(rounded[name], value), name


def test_shipped_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "config.yaml").touch()
    monkeypatch.setattr("hdvl.inputs.ASSETS", tmp_path)
    assert find_folder("hdvl/mini") == tmp_path / "mini"
    with pytest.raises(
        ValueError, match=r"model 'hdvl/huge' is not shipped .* has: hdvl/mini; give"
    ):
        find_folder("hdvl/huge")
    assert find_folder("runs/docs") == Path("runs/docs")
    assert ASSETS.parent.name == "hdvl"


def test_the_folder_of_a_run_means_its_model(tiny_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "train.yaml").write_text("seed: 0\n")
    with pytest.raises(ValueError, match=r"has no model yet.*resume with: hdvl train resume="):
        load(run)
    shutil.copytree(tiny_folder, run / "model")
    assert find_folder(run) == run / "model"
    assert load(run).chat("What?", max_new_tokens=1).numbers.new_tokens <= 1


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^model must be a folder, there is no .*absent"):
        load(tmp_path / "absent")
