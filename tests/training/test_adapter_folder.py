"""Adapters alone: saved beside the name of their base, and put on it again."""

from pathlib import Path

import pytest
import yaml

from hdvl.checkpoints import load_folder, save_folder
from hdvl.training.adapter_folder import load_adapters, save_adapters
from hdvl.training.tuning import MODULES, merge_lora
from tests.tiny_model import NODE, tiny_folder, tiny_vlm
from tests.training.test_combinations import LORA, logits_of, train
from tests.training.test_token_rows import batch_of

__all__ = ["tiny_folder"]
TUNING = dict.fromkeys(MODULES, "frozen") | {
    "bridge": "full",
    "llm": "dora",
    "new_tokens": "full",
    "tokens": ["<box>"],
    "lora": LORA,
}


@pytest.fixture
def saved(tiny_folder: Path, tmp_path: Path) -> Path:
    """Adapters after two steps, with the logits that they must give again."""
    vlm = load_folder(tiny_folder)
    train(vlm, batch_of(vlm), TUNING)
    return save_adapters(vlm, tmp_path / "adapters", tuning=TUNING, base=tiny_folder)


def test_a_round_trip_gives_equal_logits(tiny_folder: Path, tmp_path: Path) -> None:
    vlm = load_folder(tiny_folder)
    batch = batch_of(vlm)
    train(vlm, batch, TUNING)
    folder = save_adapters(vlm, tmp_path / "adapters", tuning=TUNING, base=tiny_folder)
    again, tuning = load_adapters(folder)
    assert tuning == TUNING
    assert logits_of(again, batch).equal(logits_of(vlm, batch))
    assert logits_of(merge_lora(again), batch).equal(logits_of(merge_lora(vlm), batch))
    small, whole = (
        sum(file.stat().st_size for file in path.glob("*.safetensors"))
        for path in (folder, tiny_folder)
    )
    assert small < whole / 2


def test_another_base_is_refused(saved: Path, tiny_folder: Path, tmp_path: Path) -> None:
    other = save_folder(tiny_vlm(seed=7), tmp_path / "other", {"model": NODE})
    with pytest.raises(ValueError, match=r"belong to the model that lay in .* is another; give"):
        load_adapters(saved, base=other)
    load_adapters(saved, base=tiny_folder)


def test_tensors_that_do_not_fit_are_named(saved: Path) -> None:
    plain = yaml.safe_load((saved / "adapter.yaml").read_text())
    plain["tuning"]["merger"] = "full"
    (saved / "adapter.yaml").write_text(yaml.safe_dump(plain))
    with pytest.raises(
        ValueError, match=r"must fit the model in .*, they differ in merger\.newline"
    ):
        load_adapters(saved)


def test_folders_that_are_none_or_taken_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a folder with adapter\.yaml"):
        load_adapters(tmp_path)
    with pytest.raises(ValueError, match="adapters must go to a new folder"):
        save_adapters(tiny_vlm(), saved, tuning=TUNING, base=tmp_path)
