"""Pages of the suite: what is asked of them is what they show, and boxes follow the rotation."""

import io

import numpy as np
import pytest
from PIL import Image

from hdvl.data.synthetic.suite import DENSITIES, Difficulty, rotated, suite_page


def dark(jpeg: bytes, box: tuple[float, ...]) -> float:
    """Share of the dark pixels of an image that lie in ``box``, which is widened by two pixels."""
    pixels = np.asarray(Image.open(io.BytesIO(jpeg)).convert("L")) < 128
    x0, y0, x1, y1 = (round(side) for side in box)
    return float(pixels[max(0, y0 - 2) : y1 + 2, max(0, x0 - 2) : x1 + 2].sum() / pixels.sum())


def test_a_page_follows_from_its_seed_and_difficulty() -> None:
    one, other = (suite_page("a", Difficulty()) for _ in range(2))
    assert one == other and one.jpeg != suite_page("b", Difficulty()).jpeg
    assert one.size == (1008, 756) and one.jpeg[:2] == b"\xff\xd8"
    coarse = suite_page("a", Difficulty(quality=30))
    assert coarse.fields == one.fields and len(coarse.jpeg) < len(one.jpeg)


@pytest.mark.parametrize("density", DENSITIES)
def test_density_and_text_height(density: str) -> None:
    low, high = DENSITIES[density]
    page = suite_page("a", Difficulty(density=density))
    assert 1 <= len(page.fields) <= high and (density == "sparse" or len(page.fields) > low // 2)
    heights = [
        max(
            field.box[3] - field.box[1]
            for field in suite_page("a", Difficulty(text_height=h)).fields
        )
        for h in (8, 16, 32)
    ]
    assert heights[0] < 8 < heights[1] < 16 < heights[2] < 32


@pytest.mark.parametrize("rotation", [0.0, 3.0])
def test_the_boxes_hold_the_values(rotation: float) -> None:
    page = suite_page("c", Difficulty(rotation=rotation, text_height=24))
    shares = [dark(page.jpeg, field.box) for field in page.fields]
    letters = sum(len(field.value) for field in page.fields)
    labels = sum(len(field.name) for field in page.fields)
    assert all(share > 0.02 for share in shares)
    assert 0.5 * letters / (letters + labels) < sum(shares) < 1.5 * letters / (letters + labels)


def test_a_box_is_turned_about_the_centre() -> None:
    assert rotated((0, 0, 2, 1), (4, 4), 90) == pytest.approx((0, 2, 1, 4))


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="density must be one of sparse, dense, got 'full'"):
        Difficulty(density="full")
    with pytest.raises(ValueError, match=r"text_height must be in 4\.\.256, got 2"):
        Difficulty(text_height=2)
    with pytest.raises(ValueError, match="a page of 96 px must hold text of 200 px"):
        suite_page("a", Difficulty(width=96, text_height=200))
