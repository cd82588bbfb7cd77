"""``hdvl parity``: equal models agree whatever the layout of their folders, and differences are reported."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hdvl.checkpoints.exporters import export
from hdvl.checkpoints.parity import largest_difference, tensors_in
from hdvl.config import compose, resolve
from hdvl.parity import run
from tests.checkpoints.exporters.test_exporting import CASES, saved
from tests.golden_files import make_image


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model of hdvl, and the same model as transformers has it."""
    folder = tmp_path_factory.mktemp("parity")
    saved(CASES["llava-next"][1], folder / "own")
    export(folder / "own", folder / "native")
    return folder / "own", folder / "native"


def parity(*overrides: str) -> tuple[str, bool]:
    return run(resolve(compose(*overrides, config_name="parity")))


def test_a_model_and_its_export_agree(pair: tuple[Path, Path], tmp_path: Path) -> None:
    make_image(["gradient", 60, 40, 0]).save(tmp_path / "a.png")
    words = [f"checkpoint={pair[0]}", f"other={pair[1]}", "max_new_tokens=3"]
    text, same = parity(*words, f"image={tmp_path}/a.png")
    assert same, text
    lines = text.splitlines()
    assert lines[0] == f"{pair[0]} (hdvl) and {pair[1]} (llava_next)"
    assert "tensors, largest difference 0, 0 differ by more than 0" in lines[1]
    assert "the same answer" in lines[2] and lines[-1] == "they agree"


@pytest.mark.slow
def test_what_differs_is_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    saved(CASES["llava-next"][1], tmp_path / "own")
    file = tmp_path / "own" / "model.safetensors"
    state = load_file(file)
    state["merger.newline"][3] += 0.25
    state["bridge.mlp.0.bias"] = torch.zeros(7)
    state["stray"] = state.pop("bridge.mlp.2.bias")
    save_file(state, file)
    text, same = parity(f"checkpoint={tmp_path}/own", f"other={pair[1]}")
    assert not same and text.endswith("they DIFFER")
    for line in (
        "merger.newline: 0.25",
        "bridge.mlp.0.bias: shapes (7,) and (32,)",
        "bridge.mlp.2.bias: only in the second",
        "stray: only in the first",
        "4 differ by more than 0",
    ):
        assert line in text, text
    assert "and 3 more" in parity(f"checkpoint={tmp_path}/own", f"other={pair[1]}", "most=1")[0]


def test_an_unknown_layout_is_compared_by_its_names(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 1.5)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.full((2,), value)}, tmp_path / name / "model.safetensors")
    assert tensors_in(tmp_path / "a").kind == "names as stored"
    text, same = parity(f"checkpoint={tmp_path}/a", f"other={tmp_path}/b")
    assert not same and "largest difference 0.5" in text
    assert parity(f"checkpoint={tmp_path}/a", f"other={tmp_path}/b", "atol=0.5")[1]


def test_differences_of_numbers_that_are_none() -> None:
    nan, inf = float("nan"), float("inf")
    assert largest_difference(torch.tensor([nan, inf, 1]), torch.tensor([nan, inf, 1])) == 0
    assert largest_difference(torch.tensor([nan]), torch.tensor([1.0])) == inf
    assert largest_difference(torch.zeros(0), torch.zeros(0)) == 0


def test_two_folders_must_be_given() -> None:
    with pytest.raises(ValueError, match="checkpoint and other must be given"):
        parity()
