"""Frozen weights in four bits by bitsandbytes, and the error if it is not installed."""

from copy import deepcopy
from typing import Any

import pytest
import torch

from hdvl.model import VLM
from hdvl.quantisation import nf4
from hdvl.training.audit import tuning_table
from hdvl.training.tuning import MODULES, apply_tuning, has_lora, merge_lora
from tests.training.conftest import vlm
from tests.training.test_combinations import LORA, logits_of, train
from tests.training.test_token_rows import batch_of
from tests.training.test_token_rows import model as any_model

__all__ = ["vlm"]
TUNING = dict.fromkeys(MODULES, "frozen") | {"llm": "qlora", "lora": LORA}
LAYER = "model.model.layers.0.mlp.up_proj"
SIZES = {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.1}
absent = nf4.why_absent()
needs_four_bits = pytest.mark.skipif(absent is not None, reason=str(absent))


def model() -> VLM:
    """The tiny model with rows of whole blocks."""
    return any_model(tied=True, **SIZES)


def test_the_reason_is_named_where_the_library_is_absent(
    monkeypatch: pytest.MonkeyPatch, vlm: Any
) -> None:
    monkeypatch.setattr(nf4, "LIBRARY", "no_such_library")
    with pytest.raises(
        ValueError,
        match=r"tuning.llm=qlora needs four-bit weights, no_such_library is not installed; pip inst",
    ):
        apply_tuning(vlm, TUNING)


def test_torch_attention_is_refused(vlm: Any) -> None:
    with pytest.raises(ValueError, match="encoder=qlora cannot keep torch's attention in four"):
        apply_tuning(vlm, TUNING | {"encoder": "qlora", "llm": "frozen"})


@needs_four_bits
def test_rows_that_end_inside_a_block_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"needs rows of a multiple of 64 weights, llm\.model.*q_proj has 32; use lora",
    ):
        apply_tuning(any_model(tied=True), TUNING)


@needs_four_bits
def test_four_bits_are_near_the_weights() -> None:
    vlm = model()
    batch = batch_of(vlm)
    plain = logits_of(vlm, batch)
    apply_tuning(vlm, TUNING)
    error = (logits_of(vlm, batch) - plain).norm() / plain.norm()
    assert 0.01 < error < 0.5


@needs_four_bits
def test_qlora_trains_the_adapters_alone_and_merges_without_rounding_again() -> None:
    vlm = model()
    batch, names = batch_of(vlm), set(vlm.state_dict())
    shape = vlm.llm.get_submodule(LAYER).weight.shape
    train(vlm, batch, TUNING)
    assert nf4.is_quantised(vlm.llm.get_submodule(LAYER).base_layer)
    trained = logits_of(vlm, batch)
    merge_lora(vlm)
    assert not has_lora(vlm) and set(vlm.state_dict()) == names
    weight = vlm.llm.get_submodule(LAYER).weight
    assert weight.shape == shape and weight.dtype == torch.float32
    torch.testing.assert_close(logits_of(vlm, batch), trained, rtol=0, atol=2e-4)


@needs_four_bits
def test_a_merge_gives_the_weights_that_were_trained() -> None:
    """Four bits give 16 values per block of 64; a layer without an adapter keeps them."""
    vlm = model()
    before = vlm.llm.get_submodule(LAYER).weight.detach().clone()
    targets = LORA["common"] | {"targets": ["q_proj"]}
    apply_tuning(vlm, TUNING | {"lora": {"common": targets}})
    assert nf4.is_quantised(vlm.llm.get_submodule(LAYER))
    merge_lora(vlm)
    after = vlm.llm.get_submodule(LAYER).weight
    blocks = after.reshape(-1, 64)
    assert max(len(block.unique()) for block in blocks) <= 16
    # The widest gap of NF4's numbers is 0.3 of a block's largest, and half of it may be lost; the
    # largest itself is stored in eight bits.
    largest = before.reshape(-1, 64).abs().amax(dim=1, keepdim=True)
    assert ((blocks - before.reshape(-1, 64)).abs() <= 0.2 * largest).all()


@pytest.mark.slow
@needs_four_bits
def test_a_checkpoint_holds_the_four_bit_weights() -> None:
    vlm, other = model(), model()
    batch = batch_of(vlm)
    train(vlm, batch, TUNING)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    apply_tuning(other, TUNING)
    assert not logits_of(other, batch).equal(logits_of(vlm, batch))
    other.load_state_dict(vlm.state_dict())
    assert logits_of(other, batch).equal(logits_of(vlm, batch))


@needs_four_bits
def test_numbers_are_counted_not_bytes() -> None:
    vlm = model()
    before = sum(p.numel() for p in vlm.llm.parameters())
    apply_tuning(vlm, TUNING)
    adapters = sum(p.numel() for n, p in vlm.llm.named_parameters() if "lora_" in n)
    line = next(row for row in tuning_table(vlm, TUNING).splitlines() if row.startswith("llm"))
    assert line.split() == [
        "llm",
        "qlora",
        f"{adapters:,}",
        "of",
        f"{before + adapters:,}",
        "train",
    ]


@needs_four_bits
def test_memory_is_known_before_there_are_weights() -> None:
    """A plan on meta counts the bytes that the four-bit weights will take."""
    vlm = any_model(tied=False, **SIZES)
    planned = deepcopy(vlm).to("meta")
    apply_tuning(vlm, TUNING)
    apply_tuning(planned, TUNING)
    bytes_of = [
        sum(nf4.stored_bytes(p, 4) for p in module.parameters()) for module in (vlm, planned)
    ]
    assert bytes_of[0] == bytes_of[1]
    layer = vlm.llm.get_submodule(LAYER).base_layer
    held = sum(
        t.numel() * t.element_size() for t in (layer.weight, layer.weight.quant_state.absmax)
    )
    assert held == nf4.stored_bytes(layer.weight, 4)
