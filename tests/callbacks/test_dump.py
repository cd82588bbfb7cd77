"""A dumped batch can be computed again, and its text can be read."""

from pathlib import Path

import pytest

from hdvl.callbacks.dump import load_batch, row_names, save_batches
from hdvl.model import VLM
from hdvl.processor import collate, pack
from tests.callbacks.runs import same, shared_sample, two_samples
from tests.training.runs import Colours


def test_batches_come_back(vlm: VLM, tmp_path: Path) -> None:
    samples = two_samples(vlm)
    batches = [
        collate(samples, pad_id=0),
        pack(samples),
        pack([*samples, shared_sample(vlm)]),
    ]
    folder = tmp_path / "bad_steps" / "step-7"
    for reason in ("the loss is inf", "the loss is nan"):  # the second replaces the first
        save_batches(folder, batches, vlm=vlm, source=Colours(), reason=reason)
    for number, batch in enumerate(batches):
        assert same(load_batch(folder / f"batch-{number}.safetensors"), batch)
    text = (folder / "batch-1.txt").read_text(encoding="utf-8")
    assert text.startswith("the loss is nan\n\n=== conversation 0: ")
    assert "<<Née second.<|im_end|>>>" in text and "<<Hello.<|im_end|>>>" in text
    assert row_names(batches[0], Colours()) == ["conversation 0", "conversation 1"]
    assert [path.name for path in folder.parent.iterdir()] == ["step-7"]


def test_a_failed_dump_leaves_nothing(
    vlm: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save", full)
    with pytest.raises(OSError, match="disk full"):
        batch = pack(two_samples(vlm))
        save_batches(tmp_path / "x", [batch], vlm=vlm, source=Colours(), reason="")
    assert not list(tmp_path.iterdir())
