"""The mean of two sets of weights."""

from pathlib import Path

import pytest
import torch
from average_small import mean, weights

from hdvl.checkpoints import load_folder
from hdvl.checkpoints.sources import ASSETS


def test_the_mean_lies_halfway() -> None:
    one, other = {"w": torch.tensor([1.0, 3.0])}, {"w": torch.tensor([3.0, 3.0])}
    assert mean(one, other)["w"].tolist() == [2.0, 3.0]


def test_whole_numbers_must_agree() -> None:
    one = {"n": torch.tensor([1, 2])}
    assert mean(one, {"n": torch.tensor([1, 2])})["n"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="n must be the same"):
        mean(one, {"n": torch.tensor([1, 3])})


@pytest.mark.slow
def test_weights_of_a_folder_and_of_a_checkpoint_have_the_same_names(tmp_path: Path) -> None:
    state = load_folder(ASSETS / "small").state_dict()
    whole = {f"vlm.{name}": tensor for name, tensor in state.items()}
    torch.save({"state_dict": whole}, tmp_path / "last.ckpt")
    read = weights(tmp_path / "last.ckpt")
    assert read.keys() == weights(ASSETS / "small").keys() == state.keys()
    assert all(read[name].equal(state[name]) for name in state)
