"""Lightning's precision plugins still need the patch, and the patch still applies."""

import lightning.pytorch as pl
import pytest
import torch

from hdvl.compat.lightning import convert_weights_only


def trainer(precision: str) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def dtype_of_a_step(one: pl.Trainer) -> torch.dtype:
    with one.precision_plugin.train_step_context():
        return torch.get_default_dtype()


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_true_precisions_change_the_default_dtype_of_a_step(precision: str) -> None:
    one = trainer(precision)
    assert dtype_of_a_step(one) != torch.float32  # or the change is needed no more
    convert_weights_only(one)
    assert dtype_of_a_step(one) == torch.float32


def test_batches_are_left_alone() -> None:
    one, batch = trainer("bf16-true"), {"numbers": torch.zeros(2)}
    assert one.precision_plugin.convert_input(batch)["numbers"].dtype == torch.bfloat16
    convert_weights_only(one)
    assert one.precision_plugin.convert_input(batch) is batch


def test_mixed_precision_keeps_its_context() -> None:
    one = trainer("bf16-mixed")
    convert_weights_only(one)
    with one.precision_plugin.train_step_context():
        assert torch.is_autocast_enabled("cpu")
