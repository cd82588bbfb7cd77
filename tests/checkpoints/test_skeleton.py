"""Models are built on ``meta`` without initialising what has no values."""

import torch
from torch import nn

from hdvl.checkpoints.skeleton import parameters_on_meta


class Scaled(nn.Module):
    """A layer with a parameter and a buffer that its constructor fills."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.register_buffer("scale", torch.empty(2).fill_(0.5), persistent=False)
        nn.init.normal_(self.linear.weight)


def test_buffers_have_their_values_and_parameters_are_left_alone() -> None:
    with parameters_on_meta():
        module = Scaled()
        weight = module.linear.weight
        before = weight._version  # counts the operations that write into a tensor
        with torch.no_grad():
            assert nn.init.uniform_(weight) is weight and weight.zero_() is weight
    assert weight.is_meta and weight.requires_grad and weight._version == before
    assert module.scale.tolist() == [0.5, 0.5]
    assert nn.init.ones_(nn.Parameter(torch.empty(2))).tolist() == [1, 1]
