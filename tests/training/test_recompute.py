"""Activation checkpointing: the same gradients for all tunings, with less memory."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from hdvl.model import VLM
from hdvl.processor import collate
from hdvl.training.recompute import keep, recompute
from hdvl.training.tuning import apply_tuning
from tests.tiny_model import tiny_node, tiny_vlm
from tests.training.layouts import samples

TRANSFORMER = {
    "_target_": "hdvl.encoders.TimmEncoder.from_pretrained",
    "name": "vit_tiny_patch16_224",
    "weights": None,
    "tile_size": 32,
    "config": {"embed_dim": 48, "depth": 2, "num_heads": 3},
}
LORA = {"common": {"rank": 2, "alpha": 4, "dropout": 0.2, "targets": "all-linear"}}


def gradients(vlm: VLM) -> tuple[dict[str, Tensor], int]:
    """Gradients of one step, and how many numbers were kept for it."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    batch = collate(samples(vlm), pad_id=0)
    torch.manual_seed(5)
    with saved_tensors_hooks(note, lambda tensor: tensor):
        output = vlm(batch.input_ids, batch.pixels, batch.plans, None, batch.labels)
    assert output.loss is not None
    output.loss.backward()
    named = vlm.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}, sum(kept.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "llm"), [*itertools.product(["full", "frozen"], ["lora", "full", "frozen"])]
)
def test_gradients_are_the_same(encoder: str, llm: str) -> None:
    vlm = tiny_vlm({**tiny_node(), "encoder": TRANSFORMER})
    tuning = {"encoder": encoder, "bridge": "full", "merger": "full", "llm": llm, "lora": LORA}
    apply_tuning(vlm, tuning)
    expected, much = gradients(vlm)
    vlm.zero_grad()
    blocks = recompute(vlm, ["encoder", "llm"])
    assert len(blocks) == 4
    found, little = gradients(vlm)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)
    assert little < 0.8 * much
    keep(blocks)
    assert all("forward" not in vars(block) for block in blocks)


def test_wrong_parts_are_named() -> None:
    with pytest.raises(ValueError, match=r"callbacks.recompute.parts must be of encoder, llm"):
        recompute(tiny_vlm(), ["bridge"])
    with pytest.raises(ValueError, match="encoder has no list of blocks; leave it out"):
        recompute(tiny_vlm(), ["encoder"])
