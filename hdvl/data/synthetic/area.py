"""The part of a page that is left for the blocks of a described layout."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hdvl.data.synthetic.page import Color, Page
from hdvl.data.synthetic.values import vocabulary
from hdvl.protocols import Box

Block = Mapping[str, Any]
"""A block of a layout as ``layouts.yaml`` describes it."""


@dataclass
class Area:
    """Where on ``page`` the next block goes: a column ``width`` px wide, from (``x``, ``y``) on."""

    page: Page
    x: int
    y: int
    width: int
    used: set[str] = field(default_factory=set)

    @property
    def rng(self) -> random.Random:
        """The random generator of all choices."""
        return self.page.rng

    def chosen(self, block: Block, key: str, default: Any = None) -> Any:
        """The option ``key`` of a block; of a list one of its members."""
        value = block.get(key, default)
        return self.rng.choice(value) if isinstance(value, list) else value

    def count(self, block: Block, entries: int) -> int:
        """How many entries a block gets, at most ``entries``."""
        low, high = block["count"]
        return self.rng.randint(min(low, entries), max(min(low, entries), min(high, entries)))

    def room(self, height: int) -> bool:
        """Whether ``height`` more pixels are left above the page's lower edge."""
        return self.y + height <= self.page.height - 4

    def labels(self, group: str, count: int) -> list[tuple[str, str]]:
        """Up to ``count`` labels of a group that are not on the page yet, each with its kind of value."""
        kinds = vocabulary()["groups"][group]
        free = [(label, kind) for kind, found in kinds.items() for label in found]
        free = [(label, kind) for label, kind in free if label.lower() not in self.used]
        found = self.rng.sample(free, min(count, len(free)))
        unique = {label.lower(): (label, kind) for label, kind in found}
        self.used |= unique.keys()
        return list(unique.values())

    def say(self, label: str, value: str, box: Box, *, column: str | None = None) -> None:
        """Record that ``label`` has ``value``, in a table under the header ``column``."""
        name = label if label in vocabulary()["groups"]["places"]["any"] else label.lower()
        question = f"What is the {name}?"
        if column is not None:
            column = column.lower()
            question, name = f"What is the {column} of the {name}?", f"{name} {column}"
        self.page.say(name, value, box, question)


def spelled(rng: random.Random, text: str, case: str | None) -> str:
    """``text`` in upper case, lower case, or as it is; without ``case`` mostly as it is."""
    if case is None:
        case = rng.choices(("title", "upper", "lower"), (6, 2, 1))[0]
    return {"upper": text.upper(), "lower": text.lower()}.get(case, text)


def grey(page: Page) -> Color:
    """Half way between the paper and the ink."""
    return mixed(page.paper, page.ink, 0.5)


def mixed(one: Color, other: Color, share: float) -> Color:
    """``share`` of the way from one colour to another."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue
