"""Decoding steps with fixed shapes, as used for CUDA graphs, equal the usual steps."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch.nn import functional

from hdvl.decoding import Scheduler
from hdvl.llms.cuda_graphs import RANGE, range_of
from hdvl.llms.kernels import attend_one_query
from hdvl.llms.slots import ModelSlots
from tests.tiny_model import tiny_vlm

LENGTHS = [5, 20, 11]


def filled() -> ModelSlots:
    """Slots that hold sequences of LENGTHS."""
    slots = ModelSlots(tiny_vlm().llm.model)  # those of a GPU
    slots.reserve(len(LENGTHS), 3 * RANGE)
    generator = torch.Generator().manual_seed(0)
    for slot, length in enumerate(LENGTHS):
        slots.prefill(torch.randn(length, 32, generator=generator), slot, 0, length)
    return slots


@torch.inference_mode()
def test_attending_to_a_whole_range_gives_the_same_logits() -> None:
    slots, newest = filled(), torch.randn(3, 32)
    usual = slots.decode(newest, LENGTHS)
    for size in (RANGE, 2 * RANGE):
        wide = slots._decode_rows(newest, torch.tensor(LENGTHS), size)
        torch.testing.assert_close(wide, usual, rtol=1e-5, atol=1e-5)


def test_a_range_holds_the_new_position() -> None:
    assert [range_of(n) for n in (0, RANGE - 1, RANGE, 3 * RANGE)] == [
        RANGE,
        RANGE,
        2 * RANGE,
        4 * RANGE,
    ]


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("scaling", [None, 0.4])
@pytest.mark.parametrize("masked", [True, False])
def test_one_query_attends_as_sdpa_does(groups: int, scaling: float | None, masked: bool) -> None:
    query = torch.randn(2, 4, 1, 8)
    key, value = torch.randn(2, groups, 9, 8), torch.randn(2, groups, 9, 8)
    mask = torch.arange(9) < torch.tensor([3, 7])[:, None, None, None] if masked else None
    expected = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True
    )
    found = attend_one_query(query, key, value, mask, scaling)
    torch.testing.assert_close(found, expected.transpose(1, 2))


@pytest.mark.slow
@torch.inference_mode()
def test_a_step_is_one_graph_for_the_compiler(
    unchecked: Callable[[], AbstractContextManager[None]],
) -> None:
    slots, newest, lengths = filled(), torch.randn(3, 32), torch.tensor(LENGTHS)
    usual = slots.decode(newest, LENGTHS)
    step = torch.compile(slots._decode_rows, backend="eager", fullgraph=True)
    with unchecked():  # the checks of shapes cannot be traced
        found = step(newest, lengths, RANGE)
    torch.testing.assert_close(found, usual, rtol=1e-5, atol=1e-5)


def test_compiled_steps_need_a_gpu() -> None:
    with pytest.raises(ValueError, match="compiled decoding needs a CUDA device"):
        Scheduler(tiny_vlm().llm, compile=True).slots  # noqa: B018
