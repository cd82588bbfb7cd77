"""The part of a page that is left for the blocks of a described layout."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hdvl.data.synthetic.page import Page
from hdvl.data.synthetic.style import Color
from hdvl.data.synthetic.values import invented_label, vocabulary
from hdvl.protocols import Box

Block = Mapping[str, Any]
"""A block of a layout as ``layouts.yaml`` describes it."""


@dataclass
class Area:
    """The free part of a page: a column of ``width`` pixels whose top left corner is (``x``, ``y``).

    ``used`` holds the labels that are on the page already, in lower case.
    """

    page: Page
    x: int
    y: int
    width: int
    used: set[str] = field(default_factory=set)

    @property
    def rng(self) -> random.Random:
        """The random generator of all choices."""
        return self.page.rng

    def option(self, block: Block, key: str, default: Any = None) -> Any:
        """The value of the option ``key`` of a block. If it is a list, one of its members is drawn."""
        value = block.get(key, default)
        return self.rng.choice(value) if isinstance(value, list) else value

    def count(self, block: Block, entries: int) -> int:
        """The number of entries of a block, at most ``entries``."""
        low, high = block["count"]
        return self.rng.randint(min(low, entries), max(min(low, entries), min(high, entries)))

    def has_room(self, height: int) -> bool:
        """Whether at least ``height`` pixels are left above the lower edge of the page."""
        return self.y + height <= self.page.height - 4

    def labels(self, group: str, count: int) -> list[tuple[str, str]]:
        """Up to ``count`` labels of a group that are not on the page yet, each with its kind of value."""
        kinds = vocabulary()["groups"][group]
        free = [(label, kind) for kind, found in kinds.items() for label in found]
        free = [(label, kind) for label, kind in free if label.lower() not in self.used]
        found = self.rng.sample(free, min(count, len(free)))
        if self.page.invented:
            found = [(invented_label(self.rng), kind) for _, kind in found]
        unique = {label.lower(): (label, kind) for label, kind in found}
        self.used |= unique.keys()
        return list(unique.values())

    def add_field(self, label: str, value: str, box: Box, *, column: str | None = None) -> None:
        """Add a field named ``label``; in a table also the header of its ``column``."""
        name = label if label in vocabulary()["groups"]["places"]["any"] else label.lower()
        question = f"What is the {name}?"
        if column is not None:
            column = column.lower()
            question, name = f"What is the {column} of the {name}?", f"{name} {column}"
        self.page.add_field(name, value, box, question)


def with_case(rng: random.Random, text: str, case: str | None) -> str:
    """``text`` in upper case, in lower case or unchanged. Without ``case`` it is mostly unchanged."""
    if case is None:
        case = rng.choices(("title", "upper", "lower"), (6, 2, 1))[0]
    return {"upper": text.upper(), "lower": text.lower()}.get(case, text)


def grey(page: Page) -> Color:
    """The colour half way between paper and ink."""
    return mixed(page.paper, page.ink, 0.5)


def mixed(one: Color, other: Color, share: float) -> Color:
    """The colour at ``share`` (0 to 1) of the way from one colour to another."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue
