"""The blocks of described layouts that hold values: pairs, tables, cards, meters, charts of columns."""

import hdvl.data.synthetic.words as words
from hdvl.data.synthetic.area import Area, Block, grey, mixed, with_case
from hdvl.data.synthetic.values import draw_value
from hdvl.protocols import Box


def pairs(area: Area, block: Block, entries: int) -> None:
    """Labels with their values: right-aligned, after the label, under it, or in a column."""
    page, rng = area.page, area.rng
    indent = int(area.width * rng.uniform(*block["indent"])) if "indent" in block else 0
    columns = min(area.option(block, "columns", 1), max(1, (area.width - indent) // 150))
    kind, where = area.option(block, "values"), area.option(block, "where", "after")
    frame, case = area.option(block, "frame", "none"), area.option(block, "case")
    leader, colon = area.option(block, "leader", ""), area.option(block, "colon", "")
    value_size = int(page.font_size * area.option(block, "value_size", 1.0))
    label_size = page.font_size - (rng.randint(1, 4) if block.get("small_labels") else 0)
    found = area.labels(area.option(block, "groups"), area.count(block, entries))
    cell = (area.width - indent - 14 * (columns - 1)) // columns
    low, high = block.get("spread", (2, 14))
    line = max(page.line_spacing, int(value_size * 1.25))
    step = (
        line * (2 if where == "below" else 1)
        + rng.randint(low, high)
        + (6 if frame == "cell" else 0)
    )
    rows, top, share = -(-len(found) // columns), area.y, rng.uniform(0.35, 0.6)
    for number, (label, own) in enumerate(found):
        x, y = area.x + indent + number // rows * (cell + 14), top + number % rows * step
        shown = with_case(rng, label, case) + colon
        value = draw_value(rng, own if own != "any" or kind is None else kind)
        wide, deep = page.measure(value, value_size), y + step > page.height - 4
        label_end = x + page.measure(shown, label_size)
        at = {
            "right": x + cell - wide - 2,
            "after": label_end + 6 + rng.randint(0, 4),
            "below": x + (4 if frame == "cell" else 0),
            "column": x + max(int(cell * share), label_end + 6 - x),
        }[where]
        if deep or at + wide > x + cell or (where != "below" and at < label_end + 5):
            continue
        page.text(x + (4 if frame == "cell" else 0), y, shown, size=label_size)
        value_y = y + (int(label_size * 1.3) if where == "below" else page.font_size - value_size)
        box = page.text(at, max(0, value_y), value, size=value_size)
        if leader and where == "right":
            _leader(area, leader, label_end + 4, at - 5, y)
        if frame == "cell":
            page.draw.rectangle((x, y - 3, x + cell, y + step - 6), outline=grey(page))
        elif frame == "line":
            page.draw.line((x, y + step - 3, x + cell, y + step - 3), fill=grey(page))
        elif frame == "outer":
            page.draw.rectangle((box[0] - 4, box[1] - 3, x + cell, box[3] + 3), outline=grey(page))
        area.add_field(label, value, box)
    area.y = top + rows * step + 6


def _leader(area: Area, char: str, start: int, end: int, y: int) -> None:
    """A row of one character from ``start`` to ``end``, as ink and not as text to read."""
    page = area.page
    baseline = y + int(page.font_size * 0.95)
    if char == "_":
        page.draw.line((start, baseline, end, baseline), fill=grey(page))
        return
    for x in range(start, end - 2, 6):
        length = 3 if char == "-" else 1
        height = page.font_size // 3 if char == "-" else 0
        page.draw.rectangle(
            (x, baseline - height, x + length, baseline + 1 - height), fill=grey(page)
        )


def grid(area: Area, block: Block, entries: int) -> None:
    """A table: a header of labels, rows of names, a value in each cell."""
    page, rng = area.page, area.rng
    wanted = area.option(block, "columns", 2)
    rows_group, used = area.option(block, "rows"), set(area.used)
    columns = area.labels(area.option(block, "groups"), wanted)
    area.used = used
    rows = [label for label, _ in area.labels(rows_group, area.count(block, entries))]
    rules, align = area.option(block, "rules", "none"), area.option(block, "align", "left")
    case, step = area.option(block, "case"), page.line_spacing + rng.randint(4, 14)
    first = max((page.measure(row.upper()) for row in rows), default=0) + 14
    columns = columns[: max(1, (area.width - first) // 90)]
    cell = (area.width - first) // len(columns)
    x, top = area.x, area.y
    for number, (column, _) in enumerate(columns):
        _aligned(area, with_case(rng, column, case), x + first + number * cell, cell, align)
    area.y += step
    for number, row in enumerate(rows):
        if not area.has_room(step + 2):
            break
        if rules == "zebra" and number % 2 == 0:
            tint = mixed(page.paper, page.ink, 0.1)
            page.draw.rectangle((x - 3, area.y - 3, x + area.width, area.y + step - 4), fill=tint)
        page.text(x, area.y, with_case(rng, row, case))
        for place, (column, kind) in enumerate(columns):
            value = draw_value(rng, kind)
            if page.measure(value) > cell - 8:
                value = words.number(rng)
            box = _aligned(area, value, x + first + place * cell, cell, align)
            area.add_field(row, value, box, column=column)
        area.y += step
        if rules in ("lines", "all"):
            page.draw.line((x - 3, area.y - 4, x + area.width, area.y - 4), fill=grey(page))
    if rules == "all":
        edges = [
            x - 4,
            *(x + first + number * cell - 5 for number in range(len(columns))),
            x + area.width,
        ]
        for edge in edges:
            page.draw.line((edge, top - 4, edge, area.y - 4), fill=grey(page))
        page.draw.line((x - 4, top - 4, x + area.width, top - 4), fill=grey(page))
    area.y += 8


def _aligned(area: Area, text: str, x: int, width: int, align: str) -> Box:
    spare = max(0, width - area.page.measure(text) - 8)
    return area.page.text(
        x + {"left": 0, "centre": spare // 2, "right": spare}[align], area.y, text
    )


def cards(area: Area, block: Block, entries: int) -> None:
    """Boxes beside and under each other, each with a title above a value."""
    page, rng = area.page, area.rng
    found = area.labels(area.option(block, "titles"), area.count(block, entries))
    columns = min(area.option(block, "columns", 2), max(1, area.width // 130))
    kind, coloured = area.option(block, "values"), area.option(block, "coloured", False)
    size = int(page.font_size * area.option(block, "value_size", 1.0))
    cell, high = area.width // columns, page.line_spacing + int(size * 1.3) + 16
    top = area.y
    for number, (label, own) in enumerate(found):
        x, y = area.x + number % columns * cell, top + number // columns * (high + 10)
        value = draw_value(rng, own if own != "any" or kind is None else kind)
        title = with_case(rng, label, None)
        widest = max(page.measure(title), page.measure(value, size))
        if widest > cell - 22 or y + high > page.height - 4:
            continue
        fill = rng.choice(list(words.COLORS.values())) if coloured else None
        ink = (255, 255, 255) if coloured else None
        page.draw.rectangle((x, y, x + cell - 10, y + high), fill=fill, outline=grey(page))
        page.text(x + 6, y + 5, title, ink=ink)
        at = x + 6 if rng.random() < 0.6 else x + cell - 16 - page.measure(value, size)
        area.add_field(
            label, value, page.text(at, y + 7 + page.line_spacing, value, ink=ink, size=size)
        )
        area.y = max(area.y, y + high + 10)


def meter(area: Area, block: Block, entries: int) -> None:
    """A label, and under it the digits of its value, each in a box of its own."""
    page, rng = area.page, area.rng
    wide = int(page.font_size * 1.3) + rng.randint(0, 6)
    high = int(page.font_size * 1.6)
    dark = rng.random() < 0.5
    for label, kind in area.labels(area.option(block, "groups"), area.count(block, entries)):
        value = draw_value(rng, kind)
        if not area.has_room(page.line_spacing + high + 14) or len(value) * wide > area.width:
            return
        page.text(area.x, area.y, with_case(rng, label, None))
        area.y += page.line_spacing + 4
        boxes, first = list[Box](), len(page.glyphs)
        for number, digit in enumerate(value):
            x = area.x + number * wide
            fill = (25, 25, 25) if dark else (250, 250, 250)
            page.draw.rectangle(
                (x, area.y, x + wide - 2, area.y + high), fill=fill, outline=grey(page)
            )
            ink = (245, 245, 245) if dark else (15, 15, 15)
            at = x + (wide - page.measure(digit)) // 2
            boxes.append(page.text(at, area.y + 3, digit, ink=ink))
        left, tops, right, bottoms = zip(*boxes, strict=True)
        box = (min(left), min(tops), max(right), max(bottoms))
        page.spans[box] = first, len(page.glyphs)
        area.add_field(label, value, box)
        area.y += high + rng.randint(8, 20)


def bars(area: Area, block: Block, entries: int) -> None:
    """Columns of different heights, a value above each and a name below it."""
    page, rng = area.page, area.rng
    found = area.labels(area.option(block, "names"), area.count(block, entries))
    kind = area.option(block, "values")
    cell = area.width // max(1, len(found))
    high = min(page.height - area.y - 3 * page.line_spacing - 10, rng.randint(60, 300))
    if high < 30:
        return
    foot, color = area.y + page.line_spacing + high, rng.choice(list(words.COLORS.values()))
    for number, (label, _) in enumerate(found):
        x, value = area.x + number * cell, draw_value(rng, kind)
        if max(page.measure(label), page.measure(value)) > cell - 3:
            continue
        top = foot - rng.randint(6, high)
        page.draw.rectangle((x + cell // 5, top, x + cell * 4 // 5, foot), fill=color)
        page.text(x + (cell - page.measure(label)) // 2, foot + 4, label)
        box = page.text(x + (cell - page.measure(value)) // 2, top - page.line_spacing, value)
        area.add_field(label, value, box)
    area.y = foot + 2 * page.line_spacing
