"""Batches of an epoch, checked by hand and against the packer."""

import pytest

from hdvl.data.packing import Budget
from hdvl.data.sizes import Size
from hdvl.data.survey import Micro, Survey, histogram, plan_batches, survey
from hdvl.processor import Processor
from hdvl.protocols import Message
from tests.tiny_model import tiny_vlm

SIZES = [Size(10, 1), Size(20, 3), Size(30, 2), Size(40, 2)]


class Texts:
    """Three conversations without images; the second is none."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> list[Message]:
        if index == 1:
            raise ValueError("no such row\nand more")
        return [Message("user", "Say it"), Message("assistant", "yes " * (1 + 30 * index))]


def test_conversations_are_measured_and_what_training_would_refuse_is_named() -> None:
    found = survey(Texts(), Processor.of(tiny_vlm(), max_length=60), most=None)
    assert found.length == 3 and len(found.sizes) == 1 and found.sizes[0].tiles == 0
    assert [name for name, _ in found.too_long] == ["conversation 2"]
    assert found.faulty == (("conversation 1", "no such row"),)
    assert len(survey(Texts(), Processor.of(tiny_vlm()), most=1).sizes) <= 1
    with pytest.raises(ValueError, match=r"data\.max_length=60 would leave out 1 of 3"):
        found.check(max_bad=0.1, max_length=60)
    found.check(max_bad=0.4, max_length=60)
    with pytest.raises(
        ValueError, match=r"data\.train must have a usable conversation, 1 had none"
    ):
        Survey(1, (), (("a", "long"),), ()).check(max_bad=1.0, max_length=5)


def test_padded_batches_by_hand() -> None:
    layout = plan_batches(SIZES, batch_size=2, packing=None, world=2, accumulate=1)
    assert layout.micros == (Micro(30, 40, 4, 800), Micro(70, 80, 4, 3200))
    assert layout.filled == 100 / 120 and layout.tokens == 100
    assert layout.balance == (80 / 60, 1.0)


def test_packs_by_hand() -> None:
    layout = plan_batches(SIZES, batch_size=9, packing=Budget(50, 4), world=2, accumulate=1)
    assert all(micro.tokens <= 50 and micro.tiles <= 4 for micro in layout.micros)
    assert sum(micro.tokens for micro in layout.micros) == 100
    assert sum(micro.squares for micro in layout.micros) == 100 + 400 + 900 + 1600
    assert layout.filled == 100 / (50 * len(layout.micros))


def test_histograms_count_everything_once() -> None:
    values = [0, 1, 2, 3, 4, 5, 512, 513]
    buckets = [("0", 1), ("1", 1), ("2", 1), ("3..4", 2), ("5..8", 1)]
    assert histogram(values) == [*buckets, ("257..512", 1), ("513..1024", 1)]
    assert histogram([7, 3, 7], exact=True) == [("3", 1), ("7", 2)]
