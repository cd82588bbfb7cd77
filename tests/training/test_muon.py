"""Muon against torch's own on matrices, AdamW on the rest, in one optimizer."""

import pytest
import torch
from torch import nn

from hdvl.config import compose
from hdvl.training.groups import build_optimizer
from hdvl.training.muon import MuonAdamW


def gradients(seed: int, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def test_matrices_move_as_by_muon_of_torch_and_the_rest_as_by_adamw():
    shapes = ((48, 64), (96, 32), (48,), (400, 32))  # two matrices, a vector, a table
    mine, theirs = ([nn.Parameter(x) for x in gradients(0, *shapes)] for _ in range(2))
    options = {"lr": 0.01, "weight_decay": 0.1}
    both = MuonAdamW(mine, betas=(0.9, 0.95), **options)
    muon = torch.optim.Muon(theirs[:2], adjust_lr_fn="match_rms_adamw", **options)
    adamw = torch.optim.AdamW(theirs[2:], betas=(0.9, 0.95), **options)
    for step in range(1, 4):
        for one, other, gradient in zip(mine, theirs, gradients(step, *shapes), strict=True):
            one.grad, other.grad = gradient.clone(), gradient.clone()
        for optimizer in (both, muon, adamw):
            optimizer.step()
    for one, other in zip(mine, theirs, strict=True):
        assert torch.equal(one, other)
    assert all(parameter.grad is not None for parameter in mine)


def test_state_is_saved_and_goes_on():
    runs = []
    for cut in (False, True):
        (start,) = gradients(5, (32, 32))
        parameter = nn.Parameter(start)
        optimizer = MuonAdamW([parameter], lr=0.01)
        for step in range(4):
            if cut and step == 2:
                saved = optimizer.state_dict()
                optimizer = MuonAdamW([parameter], lr=0.01)
                optimizer.load_state_dict(saved)
            (parameter.grad,) = gradients(step, (32, 32))
            optimizer.step()
        runs.append(parameter.detach().clone())
    assert torch.equal(*runs)


def test_the_choice_builds_it():
    node = compose("optimizer=muon", config_name="train").optimizer
    optimizer = build_optimizer(node, [{"params": [nn.Parameter(torch.zeros(32, 32))], "lr": 1.0}])
    assert isinstance(optimizer, MuonAdamW) and optimizer.iterations == 5


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="momentum must be in"):
        MuonAdamW([nn.Parameter(torch.zeros(2))], momentum=1.0)
