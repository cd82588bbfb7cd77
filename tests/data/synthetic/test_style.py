"""Characters that differ from those of their font: boxes follow the ink, plain pages stay as they were."""

import random

import numpy as np
import pytest

from hdvl.data.synthetic import SyntheticDocuments
from hdvl.data.synthetic.fonts import font_files, load_font, prefix_lengths
from hdvl.data.synthetic.page import Page
from hdvl.data.synthetic.style import PLAIN, Style, some_style

STYLES = [Style(1.2), Style(0.8), Style(slant=0.25), Style(slant=-0.1), Style(stroke=0.5)]


def drawn(style: Style, text: str = "VAT 117.50 Tj") -> tuple[Page, tuple[float, ...]]:
    page = Page(
        width=240,
        height=60,
        rng=random.Random(1),
        language="en",
        font_file=font_files("en")[0],
        font_size=18,
        style=style,
    )
    return page, page.text(30, 14, text)


def ink(page: Page, box: tuple[float, ...]) -> np.ndarray:
    """Where there is ink in a box, rows cols."""
    x0, y0, x1, y1 = (round(edge) for edge in box)
    return np.asarray(page.image.convert("L"))[y0:y1, x0:x1] < 160


@pytest.mark.parametrize("style", [PLAIN, *STYLES, Style(1.1, 0.2, 0.4)])
def test_boxes_surround_the_ink(style: Style) -> None:
    page, (x0, y0, x1, y1) = drawn(style)
    dark = np.argwhere(np.asarray(page.image.convert("L")) < 160)
    (top, left), (bottom, right) = dark.min(0), dark.max(0) + 1
    # The corners of a leaning box may be empty: it reaches up to ``slant`` times its height too far.
    spare = 2 + abs(style.slant) * (y1 - y0)
    assert (left, right) == pytest.approx((x0, x1), abs=spare)
    assert (top, bottom) == pytest.approx((y0, y1), abs=2)
    assert all(ink(page, glyph.ink).any() for glyph in page.glyphs)


def test_a_stretched_text_is_as_wide_as_it_measures() -> None:
    plain, _ = drawn(PLAIN)
    for stretch in (0.8, 1.2):
        page, _ = drawn(Style(stretch))
        assert page.measure("117.50") == pytest.approx(stretch * plain.measure("117.50"), abs=2)
        assert page.glyphs[-1].box[2] - 30 == pytest.approx(
            stretch * (plain.glyphs[-1].box[2] - 30)
        )


def test_thicker_strokes_have_more_ink_and_slanted_text_leans_to_the_right() -> None:
    plain, thick = (ink(*drawn(style, "IIII")).mean() for style in (PLAIN, Style(stroke=0.5)))
    assert thick > 1.1 * plain
    leaning = ink(*drawn(Style(slant=0.3), "I"))
    assert leaning[0].nonzero()[0].mean() > leaning[-1].nonzero()[0].mean() + 2


def test_the_share_of_styled_documents_is_the_one_asked_for() -> None:
    sizes = {"width": (320, 320), "height": (256, 256), "kinds": "form", "chinese": 0.0}
    plain, none, all_ = (
        SyntheticDocuments(seed=4, **sizes, **options)
        for options in ({}, {"styled": 0.0}, {"styled": 1.0})
    )
    for index in range(3):
        assert plain[index].image.tobytes() == none[index].image.tobytes()
        assert plain[index].image.tobytes() != all_[index].image.tobytes()
    with pytest.raises(ValueError, match=r"styled must be a share in 0..1, got 2"):
        SyntheticDocuments(styled=2)


def test_styles_are_within_their_ranges() -> None:
    styles = [some_style(random.Random(seed)) for seed in range(200)]
    assert all(0.68 <= style.stretch <= 1.2 and 0 <= style.stroke <= 0.45 for style in styles)
    assert any(style.slant < 0 for style in styles) and any(style.slant > 0.1 for style in styles)
    assert PLAIN.edges((1.0, 2.0, 3.0, 4.0), 12) == (1.0, 2.0, 3.0, 4.0)


def test_lengths_of_prefixes_are_those_of_the_font() -> None:
    for file in font_files("en", "many"):
        for text in ("AVATo. Tea", "11 fi/7 \u20ac"):
            font = load_font(file, 17)
            lengths = [font.getlength(text[: end + 1]) for end in range(len(text))]
            assert prefix_lengths(file, 17, text) == lengths
    assert prefix_lengths(file, 17, "") == []
