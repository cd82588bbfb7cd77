"""All misfits of a composition are reported together, and the overrides that they name mend them."""

import random

import pytest

from hdvl.config import compose, to_plain
from hdvl.meta import on_meta
from hdvl.misfits import mending, misfits, overridden, reported_together
from tests.test_compositions import GROUPS, named

BLENDED = ("tiler=sliding_window", "tiler.tile_size=100", "tiler.stride=100", "merger=spatial")


def words_of(message: str) -> list[str]:
    """The overrides in the last line of a message."""
    head, _, words = message.splitlines()[-1].partition(": ")
    assert head == "  all are mended by"
    return words.split()


def built(*words: str) -> None:
    """Build the model of a composition on ``meta``, with all misfits in one message."""
    model = compose(*words, "llm=tiny").model
    with reported_together(model):
        on_meta(model)


@pytest.mark.parametrize(
    "words",
    [
        ("encoder=tiny", "bridge=pixel_shuffle_mlp", "merger=spatial", "tiler=sliding_window"),
        ("encoder=tiny", "bridge=pixel_shuffle_mlp", "bridge.order=v1", "merger=spatial", *BLENDED),
    ],
)
def test_several_misfits_are_one_message(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="misfits between parts") as caught:
        built(*words)
    message = str(caught.value)
    numbered = [line for line in message.splitlines() if line.strip()[0].isdigit()]
    assert len(numbered) >= 3  # the head, and at least two misfits
    assert int(message.split()[0]) == len(numbered) - 1
    built(*words, *words_of(message))


def test_one_misfit_is_reported_as_it_is() -> None:
    with pytest.raises(ValueError, match=r"tiler.tile_size=100 must equal") as caught:
        built("tiler.tile_size=100", "tiler.stride=100", "tiler.multiple_of=4")
    assert "misfits between parts" not in str(caught.value)


def test_a_part_that_is_replaced_takes_its_values_with_it() -> None:
    model = to_plain(compose("merger=spatial").model)
    assert overridden(model, "merger", "concat")["merger"]["_target_"].endswith("Concat")
    assert overridden(model, "tiler.tile_size", "96")["tiler"]["tile_size"] == 96
    with pytest.raises(ValueError, match="size is no key"):
        overridden(model, "tiler.size", "96")


def test_what_no_override_mends_is_left() -> None:
    model = to_plain(compose().model)
    assert misfits(model, "the moon is full; wait") == (["the moon is full; wait"], {})
    assert mending("the moon is full") is None


@pytest.mark.slow
def test_random_compositions_are_right_after_one_message() -> None:
    source, several = random.Random(3), 0
    for _ in range(30):
        words = [f"{group}={source.choice(named(group))}" for group in GROUPS]
        try:
            built(*words)
        except ValueError as error:
            if "misfits between parts" in str(error):
                several += 1
                built(*words, *words_of(str(error)))
            else:
                found = mending(str(error))
                assert found is not None, error
                built(*words, "=".join(found))
    assert several > 2
