"""Checks that a saved model is the one that was trained: it has the loss of the last validation."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import torch

from hdvl.checkpoints import load_folder
from hdvl.loss import IGNORED
from hdvl.model import VLM
from hdvl.processor import Batch
from hdvl.protocols import FeatureCache, VLMOutput

KEPT = 2
"""Number of validation batches that are kept for the comparison. They stay in memory."""
SAME = (0.05, 0.02)
LATER = (1.0, 0.5)
"""Relative and absolute tolerance of the loss: without and with optimizer steps after the validation."""


class SavedModelDiffers(ValueError):
    """The saved model does not give the loss that the trained model gave."""


@dataclass(frozen=True)
class Validated:
    """A batch of the last validation, its loss there, and the step after which that was."""

    batch: Batch
    loss: float
    step: int


def validate(vlm: VLM, batch: Batch, feature_cache: FeatureCache | None = None) -> VLMOutput:
    """What ``vlm`` makes of a validation batch."""
    output: VLMOutput = vlm(
        batch.input_ids,
        batch.pixels,
        batch.plans,
        None,
        batch.labels,
        segments=batch.segments,
        feature_cache=feature_cache,
    )
    return output


def check_saved(
    folder: Path, validated: Sequence[Validated], step: int, *, allow: str | Sequence[str] = ()
) -> None:
    """Compare the loss of the model in ``folder`` with that of the last validation.

    If optimizer steps were made after that validation, the loss may have changed, and only a much larger
    one gives a warning.

    Args:
        folder: the saved model.
        validated: batches of the last validation; with none there is nothing to compare.
        step: the last step of the training. After a validation before it the loss may be lower.
        allow: packages besides hdvl that the folder may name.

    Raises:
        SavedModelDiffers: the last validation was after the last step, and the losses differ.
    """
    known = [
        item for item in validated if isfinite(item.loss) and item.batch.labels.ne(IGNORED).any()
    ]
    if not known:
        return
    vlm = load_folder(folder, check=False, allow=allow).to(known[0].batch.input_ids.device)
    with torch.no_grad():
        losses = [validate(vlm, item.batch).loss for item in known]
    found = sum(float(loss) for loss in losses if loss is not None) / len(known)
    expected = sum(item.loss for item in known) / len(known)
    same = all(item.step == step for item in known)
    share, least = SAME if same else LATER
    off = abs(found - expected) if same else found - expected
    if off <= share * expected + least:  # NaN is not, either
        return
    message = (
        f"the model saved in {str(folder)!r} has the loss {found:.4g} on batches on which the last "
        f"validation, after step {known[0].step}, had {expected:.4g}; "
    )
    if same:
        raise SavedModelDiffers(
            f"{message}it is not the model that was trained. Do not use it; the checkpoints of the run "
            "are whole"
        )
    warnings.warn(
        f"{message}either the steps after it made the model worse, or it is not the model that was "
        "trained; look at its answers before you use it",
        stacklevel=2,
    )
