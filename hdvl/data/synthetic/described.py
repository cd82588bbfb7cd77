"""Draws the layouts that ``layouts.yaml`` describes."""

from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from hdvl.data.synthetic import text_blocks, value_blocks
from hdvl.data.synthetic.area import Area, Block, grey
from hdvl.data.synthetic.page import Page

_BLOCKS: dict[str, Callable[[Area, Block, int], None]] = {
    block.__name__: block
    for block in (
        text_blocks.heading,
        text_blocks.rule,
        text_blocks.notes,
        text_blocks.letter,
        value_blocks.pairs,
        value_blocks.grid,
        value_blocks.cards,
        value_blocks.meter,
        value_blocks.bars,
    )
}


@cache
def described() -> dict[str, dict[str, Any]]:
    """The layouts of ``layouts.yaml`` by name."""
    text = files(__package__).joinpath("layouts.yaml").read_text("utf-8")
    return {layout["name"]: layout for layout in yaml.safe_load(text)}


def layout_names(*, foreign: bool) -> tuple[str, ...]:
    """The layouts that training draws, or those kept for evaluation (``foreign``)."""
    return tuple(n for n, layout in described().items() if layout.get("foreign", False) == foreign)


def draw_layout(page: Page, layout: Mapping[str, Any], entries: int) -> None:
    """Draw a document of ``layout`` with at most ``entries`` entries in each block."""
    rng, most = page.rng, page.width - 16
    width = min(most, max(min(200, most), int(page.width * rng.uniform(*layout["width"]))))
    x, top = rng.randint(6, max(6, most - width)), rng.randint(6, max(8, page.height // 5))
    area = Area(page, x, top, width)
    border = area.option(layout, "border", "none")
    if border == "box":
        area.x, area.y, area.width = area.x + 8, area.y + 8, area.width - 16
    for block in layout["blocks"]:
        _BLOCKS[block["draw"]](area, block, entries)
    if border == "box":
        bottom = min(page.height - 2, area.y + 4)
        edges = (area.x - 8, top, area.x + area.width + 8, bottom)
        page.draw.rectangle(edges, outline=grey(page), width=rng.randint(1, 2))
