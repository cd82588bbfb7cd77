"""Tiles of the last images are kept, by the bytes of the image and the tiler."""

import pickle
import threading
from typing import Any, ClassVar

import pytest
from PIL import Image

from hdvl.protocols import Tiles
from hdvl.tilers import SlidingWindow
from hdvl.tilers.recent import RecentTiles
from tests.evaluation.made_up import png


class Counting(SlidingWindow):
    """A tiler that counts the images it cuts."""

    cut: ClassVar[list[int]] = []

    def __call__(self, image: Any) -> Tiles:
        self.cut.append(self.max_tiles)
        return super().__call__(image)


@pytest.fixture(autouse=True)
def counted() -> list[int]:
    Counting.cut.clear()
    return Counting.cut


def tiler(most: int = 64) -> Counting:
    return Counting(tile_size=32, stride=32, multiple_of=32, max_tiles=most)


def test_an_image_is_cut_once_while_it_is_among_the_last(counted: list[int]) -> None:
    recent = RecentTiles(2)
    first = recent(tiler(), png(1))
    assert recent(tiler(), png(1)) is first and counted == [64]
    assert recent(tiler(4), png(1)) is not first and counted == [64, 4]
    recent(tiler(), png(2))  # the first image is no longer among the last two
    assert recent(tiler(), png(1)) is not first and counted == [64, 4, 64, 64]
    assert pickle.loads(pickle.dumps(recent)).count == 2


def test_only_bytes_are_kept_and_an_image_that_fails_is_tried_again(counted: list[int]) -> None:
    recent, image = RecentTiles(), Image.new("RGB", (40, 40))
    recent(tiler(), image), recent(tiler(), image)
    assert len(counted) == 2
    for _ in range(2):
        with pytest.raises(ValueError, match="image"):
            recent(tiler(), b"no image")
    assert len(counted) == 4
    with pytest.raises(ValueError, match="at least 1, got 0"):
        RecentTiles(0)


def test_threads_wait_for_the_first_of_them(counted: list[int]) -> None:
    recent, found = RecentTiles(), list[Tiles]()

    def cut() -> None:
        found.append(recent(tiler(), png()))

    threads = [threading.Thread(target=cut) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(counted) == 1 and len(found) == 4 and all(one is found[0] for one in found)
