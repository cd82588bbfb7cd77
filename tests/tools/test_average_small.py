"""The mean of two sets of weights."""

import pytest
import torch
from average_small import mean


def test_the_mean_lies_halfway() -> None:
    one, other = {"w": torch.tensor([1.0, 3.0])}, {"w": torch.tensor([3.0, 3.0])}
    assert mean(one, other)["w"].tolist() == [2.0, 3.0]


def test_whole_numbers_must_agree() -> None:
    one = {"n": torch.tensor([1, 2])}
    assert mean(one, {"n": torch.tensor([1, 2])})["n"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="n must be the same"):
        mean(one, {"n": torch.tensor([1, 3])})
