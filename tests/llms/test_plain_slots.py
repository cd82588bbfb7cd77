"""Layers computed by hdvl for slots give the logits of the model, for all layouts of their weights."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from hdvl.llms import joint_weights, plain_slots
from hdvl.llms.huge_pages import LEAST, HugePages
from hdvl.llms.joint_weights import PANEL, PANEL_ROWS, Copies, JointLinear, copies_for
from hdvl.llms.plain_slots import PlainSlots, is_plain
from hdvl.llms.slot_cache import SlotCache
from hdvl.llms.slots import ModelSlots
from tests.decoding.families import make

SHARED, OWN = 80, (3, 7, 7)


def read(slots: ModelSlots, prompts: list[Tensor], shared: int) -> Tensor:
    """The logits after prompts and after the same token behind each."""
    slots.reserve(len(prompts), max(map(len, prompts)) + 1)
    with torch.inference_mode():
        first = [
            slots.prefill(prompt, row, 0, len(prompt))[0] for row, prompt in enumerate(prompts)
        ]
        token = prompts[0][:1].expand(len(prompts), -1)
        second = slots.decode(token, [len(prompt) for prompt in prompts], shared)
    return torch.cat([torch.stack(first), second])


def prompts_of(width: int) -> list[Tensor]:
    common = torch.randn(SHARED, width)
    return [torch.cat([common, torch.randn(length, width)]) for length in OWN]


@pytest.mark.slow_beyond(3)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("fits", [True, False])
@torch.no_grad()
def test_the_logits_are_those_of_the_model(
    family: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fits:
        monkeypatch.setattr(plain_slots, "copies_for", lambda layers: None)
    llm = make(family)
    for parameter in llm.parameters():
        if parameter.ndim == 1:  # norms and biases that matter
            parameter.add_(torch.randn_like(parameter) / 2)
    assert is_plain(llm.model)
    prompts = prompts_of(llm.width)
    wanted = read(ModelSlots(llm.model), prompts, 0)
    for shared in (0, SHARED):
        found = read(PlainSlots(llm.model), prompts, shared)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@torch.no_grad()
def test_copied_weights_are_freed_with_the_slots() -> None:
    """Without garbage collection: the copies are as large as the model."""
    llm = make("llama")
    slots = PlainSlots(llm.model)
    read(slots, prompts_of(llm.width), 0)
    there = weakref.ref(slots)
    gc.disable()
    try:
        del slots
        assert there() is None
    finally:
        gc.enable()


@torch.no_grad()
def test_changed_weights_are_read_after_renew() -> None:
    llm = make("llama")
    prompts = prompts_of(llm.width)
    slots = PlainSlots(llm.model)
    before = read(slots, prompts, 0)
    for parameter in llm.parameters():
        parameter.mul_(1.5)
    slots.renew()
    found = read(slots, prompts, 0)
    assert not torch.allclose(found, before, rtol=1e-2)
    torch.testing.assert_close(found, read(PlainSlots(llm.model), prompts, 0))


@pytest.mark.parametrize("copied", [True, False])
@torch.no_grad()
def test_joint_layers_give_the_outputs_of_each(copied: bool) -> None:
    layers = [nn.Linear(6, 4), nn.Linear(6, 3, bias=False), nn.Linear(6, 5)]
    hidden = torch.randn(2, 6)
    wanted = torch.cat([layer(hidden) for layer in layers], -1)
    copies = copies_for(layers) if copied else None
    joint = JointLinear(layers, copies)
    torch.testing.assert_close(joint(hidden), wanted)
    torch.testing.assert_close(joint.added(hidden, wanted), 2 * wanted)
    alone = JointLinear(layers[1:2], copies)
    torch.testing.assert_close(alone.added(hidden, hidden[:, :3]), hidden[:, :3] + wanted[:, 4:7])


@pytest.mark.parametrize("slow", [True, False])
@pytest.mark.parametrize("panels", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_any_number_of_rows_gives_the_outputs_of_each_layer(
    panels: bool, bias: bool, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint_weights, "mkl_is_slow", lambda: slow)
    layers = [nn.Linear(6, 2 * PANEL, bias=bias), nn.Linear(6, PANEL)]
    factors, copies = torch.rand(6), Copies(layers, panels=panels)
    joint = JointLinear(layers, copies, factors=factors)
    for rows in (1, 2, PANEL_ROWS + 1):
        hidden = torch.randn(rows, 6)
        wanted = torch.cat([layer(hidden * factors) for layer in layers], -1)
        torch.testing.assert_close(joint(hidden), wanted)
        torch.testing.assert_close(joint.added(hidden, wanted), 2 * wanted)
        assert (joint._panels is not None) == (panels and (slow or rows > 1))


@torch.no_grad()
def test_factors_multiply_the_inputs() -> None:
    layers, factors, hidden = [nn.Linear(6, 4), nn.Linear(6, 3)], torch.rand(6), torch.randn(2, 6)
    wanted = torch.cat([layer(hidden * factors) for layer in layers], -1)
    joint = JointLinear(layers, copies_for(layers), factors=factors)
    torch.testing.assert_close(joint(hidden), wanted)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@torch.inference_mode()
def test_rows_of_very_different_lengths_are_read_one_by_one(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_slots, "UNUSED", 1)
    llm = make(family)
    prompts = [torch.randn(length, llm.width) for length in (3, 40, 9)]
    slots = PlainSlots(llm.model)
    found = read(slots, prompts, 0)
    assert slots._pays_by_row([3, 40, 9]) and not slots._pays_by_row([9, 9, 9])
    wanted = read(ModelSlots(llm.model), prompts, 0)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_copies_have_a_bound() -> None:
    layers, size = [nn.Linear(8, 4), nn.Linear(8, 2)], 4 * 48
    assert copies_for(layers, size - 1) is None
    one, two = copies_for(layers, size), copies_for(layers, 2 * size)
    assert one is not None and one.panels is None and two is not None and two.panels is not None
    assert copies_for(layers) is not None


@torch.inference_mode()
def test_keys_are_turned_in_memory_alone() -> None:
    new = [(torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 6)) for _ in range(2)]
    caches = [SlotCache(2, turned=turned) for turned in (True, False)]
    for cache in caches:
        cache.reserve(2, 70)
        for start in (0, 5):
            cache.read_slots(0, 2, start, 5)
            for layer, pair in enumerate(new):
                cache.update(*pair, layer)
        cache.reserve(3, 200)
        cache.move(0, 2, 10)
        cache.read_rows(torch.tensor([10, 9, 8]), 11)
        one = [part[:, :, :1].repeat(2, 1, 1, 1)[:3] for part in new[1]]
        kept = cache.update(*one, 1)
        if cache.turned:
            rows = cache.append(*(part[:, :, 0] for part in one), 1)
            assert torch.equal(rows[0].mT, kept[0].flatten(0, 1))
            assert torch.equal(rows[1], kept[1].flatten(0, 1))
        cache.copy_in(0, 3, cache.copy_out(2, 1, 7))
    assert [cache.turned for cache in caches] == [True, False]
    for ours, theirs in zip(caches[0].stored, caches[1].stored, strict=True):
        assert ours[0].shape == theirs[0].shape and ours[0].stride(3) != 1
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("size", [LEAST - 64, LEAST])
def test_large_memory_holds_tensors_that_do_not_overlap(size: int) -> None:
    pages = HugePages(size, torch.device("cpu"))
    like = torch.empty(0, dtype=torch.float16)
    parts = [pages.zeros((3, 5), like), pages.zeros((7,), like.float())]
    parts.append(pages.zeros((size,), like.double()))  # does not fit
    assert [part.dtype for part in parts] == [torch.float16, torch.float32, torch.float64]
    assert not any(part.any() for part in parts)
    for number, part in enumerate(parts, 1):
        part.fill_(number)
    assert [(float(part.min()), float(part.max())) for part in parts] == [(1, 1), (2, 2), (3, 3)]
    own = parts[1].untyped_storage().data_ptr() == parts[0].untyped_storage().data_ptr()
    assert own == (size >= LEAST)
