"""Epochs become steps, and fractions of a run become batches."""

from types import SimpleNamespace

import pytest

from hdvl.training.lengths import set_lengths


def stage(**trainer):
    return {
        "trainer": {
            "max_steps": 1000,
            "max_epochs": -1,
            "accumulate_grad_batches": 2,
            "val_check_interval": 500,
            **trainer,
        }
    }


def data(rows=36, validation=None, packing=None):
    held = None if validation is None else range(validation)
    return SimpleNamespace(
        conversations=range(rows), validation=held, batch_size=4, packing=packing
    )


@pytest.mark.parametrize(
    ("epochs", "ranks", "steps"),
    [(10, 1, 45), (0.5, 1, 3), (1, 3, 2), (500, 1, 1000), (-1, 1, 1000)],
)
def test_epochs_are_steps_and_the_smaller_number_ends_the_run(epochs, ranks, steps):
    config = stage(max_epochs=epochs)
    set_lengths(config, data(), ranks=ranks)
    assert config["trainer"]["max_steps"] == steps and config["trainer"]["max_epochs"] == -1


def test_a_packed_epoch_has_no_known_number_of_steps():
    with pytest.raises(ValueError, match=r"trainer\.max_epochs needs batches of a fixed number"):
        set_lengths(stage(max_epochs=1), data(packing=object()), ranks=1)


def test_validation_comes_after_a_share_of_the_run_and_at_its_end_at_the_latest():
    config = stage(max_epochs=10, val_check_interval=0.2)
    set_lengths(config, data(validation=4), ranks=1)
    assert config["trainer"]["val_check_interval"] == 18  # of 90 batches
    config = stage(max_steps=30)
    set_lengths(config, data(validation=4), ranks=1)
    assert config["trainer"]["val_check_interval"] == 60
    config = stage(max_steps=30)
    set_lengths(config, data(), ranks=1)
    assert config["trainer"]["val_check_interval"] == 500
