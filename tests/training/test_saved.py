"""A saved model that differs from the trained one is detected by the loss of the last validation."""

import gc
import math
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import hdvl.training.run as training
from hdvl.model import VLM
from hdvl.processor import collate
from hdvl.training.saved import SavedModelDiffers, Validated, check_saved, validate
from tests.callbacks.runs import Watched, two_samples
from tests.tiny_model import tiny_folder, tiny_vlm
from tests.training.runs import config

__all__ = ["tiny_folder"]


@pytest.fixture(scope="module")
def validated() -> Validated:
    """What the model of the folder had in a validation after step 5."""
    vlm = tiny_vlm()
    batch = collate(two_samples(vlm), pad_id=0)
    with torch.no_grad():
        loss = validate(vlm, batch).loss
    assert loss is not None
    return Validated(batch, float(loss), 5)


def test_the_trained_model_is_saved(validated: Validated, tiny_folder: Path) -> None:
    nothing = replace(validated.batch, labels=torch.full_like(validated.batch.labels, -100))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_saved(tiny_folder, [validated], 5)
        check_saved(tiny_folder, [], 5)
        check_saved(tiny_folder, [replace(validated, batch=nothing, loss=0.0)], 5)
        check_saved(tiny_folder, [replace(validated, loss=math.nan)], 5)
        # Later steps made it better, or little worse.
        check_saved(tiny_folder, [replace(validated, loss=validated.loss * 3)], 8)
        check_saved(tiny_folder, [replace(validated, loss=validated.loss * 0.8)], 8)


@pytest.mark.parametrize("factor", [0.5, 1.2])
def test_another_model_is_an_error(factor: float, validated: Validated, tiny_folder: Path) -> None:
    other = replace(validated, loss=validated.loss * factor)
    with pytest.raises(
        SavedModelDiffers,
        match=r"has the loss .* after step 5, had .*not the model that was trained",
    ):
        check_saved(tiny_folder, [other], 5)


def test_a_much_larger_loss_after_further_steps_is_a_warning(
    validated: Validated, tiny_folder: Path
) -> None:
    other = replace(validated, loss=validated.loss * 0.1)
    with pytest.warns(UserWarning, match="either the steps after it made the model worse, or"):
        check_saved(tiny_folder, [other], 8)


@pytest.mark.slow
def test_a_run_whose_weights_are_lost_between_training_and_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge = training.merge_lora

    def lossy(vlm: VLM) -> None:
        merge(vlm)
        with torch.no_grad():
            vlm.llm.model.get_output_embeddings().weight.mul_(-30)

    monkeypatch.setattr(training, "merge_lora", lossy)
    plain = config(tmp_path / "run", "trainer.max_steps=2", "trainer.val_check_interval=4")
    with pytest.raises(SavedModelDiffers, match=r"run/model' has the loss .*after step 2, had"):
        training.run(plain, Watched())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")
def test_the_trained_model_is_freed_before_the_saved_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def models() -> int:
        return sum(type(found) is VLM for found in gc.get_objects())

    during: list[int] = []
    monkeypatch.setattr(training, "check_saved", lambda *_, **__: during.append(models()))
    gc.collect()
    before = models()
    training.run(config(tmp_path / "run", "trainer.max_steps=2"), Watched())
    assert during == [before]
