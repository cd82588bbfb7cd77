"""The kinds of documents. Each layout draws on a page and records the fields for questions."""

from collections.abc import Callable

import hdvl.data.synthetic.words as words
from hdvl.data.synthetic.page import Page


def _case(page: Page, text: str) -> str:
    return page.rng.choice((text, text.title(), text.upper())) if page.language == "en" else text


def _top(page: Page, lines: int, step: int) -> int:
    """A random height to start at, such that ``lines`` lines still fit where they can."""
    return page.rng.randint(4, max(8, page.height - int((lines + 1.5) * step) - 8))


def _heading(page: Page, x: int, y: int, texts: tuple[str, str], step: int) -> int:
    """Large pages get a heading; returns where the lines begin."""
    if page.height <= 300:
        return y
    page.text(x, y, texts[page.language == "zh"], size=page.font_size + 8)
    return y + step + 12


def receipt(page: Page, entries: int) -> None:
    """Goods with prices, then the sums: label left, amount right-aligned."""
    rng, zh = page.rng, page.language == "zh"
    width = min(page.width - 12, rng.randint(180, 420))
    left = rng.randint(4, page.width - width - 6)
    step = page.line_spacing + rng.randint(2, 14)
    y = _heading(page, left + width // 4, _top(page, entries + 4, step), ("Receipt", "收据"), step)
    lines = []
    for item in rng.sample(words.GOODS[page.language], min(entries, 30)):
        question = words.phrase("price", page.language, goods=item)
        lines.append((item, words.price(rng), question))
    for label in rng.sample(words.TOTALS[page.language], rng.randint(1, 3)):
        question = words.phrase("sum", page.language, totals=label)
        lines.append((label, words.price(rng, 99999), question))
    currency = rng.choice(("", "", "¥" if zh else "$"))
    for name, amount, question in lines:
        if not page.fits(left, y, width):
            break
        page.text(left, y, _case(page, name))
        shown = currency + amount
        box = page.text_right(left + width, y, shown)
        page.add_field(name.lower(), shown, box, question)
        y += step


def form(page: Page, entries: int) -> None:
    """Label and value pairs in one or more columns, some underlined."""
    rng = page.rng
    columns = max(1, min(page.width // 300, 3, (entries + 3) // 4))
    cell = page.width // columns
    step = page.line_spacing + rng.randint(4, 18)
    per_column = -(-entries // columns)
    top = _heading(page, 8, _top(page, per_column + 1, step), ("Form", "表格"), step)
    colon = rng.choice((":", ": ", "   "))
    underline = rng.random() < 0.3
    names = rng.sample(words.LABELS[page.language], entries)
    gap = rng.randint(0, 30)
    for index, name in enumerate(names):
        x = (index // per_column) * cell + 8
        y = top + (index % per_column) * step
        shown = _case(page, name) + colon
        value = words.value(rng, page.language)
        value_x = x + page.measure(shown) + 6 + gap
        if not page.fits(value_x, y, page.measure(value)):
            continue
        page.text(x, y, shown)
        box = page.text(value_x, y, value)
        if underline:
            page.draw.line((value_x, box[3] + 3, value_x + 90, box[3] + 3), fill=(150, 150, 150))
        question = words.phrase("label", page.language, labels=name)
        page.add_field(name.lower(), value, box, question)


def table(page: Page, entries: int) -> None:
    """A grid: goods down, one to three columns across."""
    rng = page.rng
    columns = rng.sample(words.COLUMNS[page.language], min(3, max(1, page.width // 220)))
    first = max(70, page.width // 6)
    cell = min(180, (page.width - first - 12) // len(columns))
    step = page.line_spacing + rng.randint(2, 12)
    left = rng.randint(4, max(5, page.width - first - cell * len(columns) - 4))
    y = _heading(page, left, _top(page, entries + 2, step), ("Stock List", "库存清单"), step)
    for index, column in enumerate(columns):
        page.text(left + first + index * cell, y, column)
    rows = rng.sample(words.GOODS[page.language], min(entries, 30))
    makers = [rng.choice((words.price, words.number, words.code)) for _ in columns]
    for item in rows:
        y += step
        if not page.fits(left, y, first + cell * len(columns) - 4):
            break
        if rng.random() < 0.8:
            page.draw.line(
                (left, y - 3, left + first + cell * len(columns), y - 3), fill=(190, 190, 190)
            )
        page.text(left, y, _case(page, item))
        for index, (column, make) in enumerate(zip(columns, makers, strict=True)):
            value = make(rng)
            box = page.text(left + first + index * cell, y, value)
            question = words.phrase("cell", page.language, goods=item, columns=column)
            page.add_field(f"{item} {column.lower()}", value, box, question)


def chart(page: Page, entries: int) -> None:
    """Horizontal bars: label left, bar, value at its end."""
    rng = page.rng
    step = page.line_spacing + rng.randint(4, 16)
    left = rng.randint(4, 16)
    y = _heading(page, left, _top(page, entries + 1, step), ("Sales Report", "销售报告"), step)
    names = rng.sample(words.PLACES[page.language], min(entries, 18))
    start = left + max(page.measure(name) for name in names) + 8
    room = page.width - start - 70
    color = rng.choice(list(words.COLORS.values()))
    amounts = [words.number(rng) for _ in names]
    largest = max(int(amount) for amount in amounts)
    for name, amount in zip(names, amounts, strict=True):
        if room < 20 or not page.fits(left, y, 60):
            break
        length = 4 + (room - 4) * int(amount) // largest
        page.text(left, y, name)
        page.draw.rectangle((start, y + 2, start + length, y + page.font_size), fill=color)
        box = page.text(start + length + 5, y, amount)
        question = words.phrase("bar", page.language, places=name)
        page.add_field(name, amount, box, question)
        y += step


def sign(page: Page, entries: int) -> None:
    """A departure board: destination, time, platform."""
    rng, zh = page.rng, page.language == "zh"
    step = page.line_spacing + rng.randint(4, 16)
    left = rng.randint(4, 20)
    y = _heading(page, left, _top(page, entries + 1, step), ("Departures", "出发"), step)
    first = max(80, page.width // 4)
    second = first + max(66, page.width // 4)
    for name in rng.sample(words.PLACES[page.language], min(entries, 18)):
        if not page.fits(left, y, second + 30):
            break
        page.text(left, y, name)
        time, platform = words.clock(rng), str(rng.randint(1, 24))
        time_box = page.text(left + first, y, time)
        platform_box = page.text(left + second, y, platform)
        when = words.phrase("time", page.language, places=name)
        where = words.phrase("platform", page.language, places=name)
        page.add_field(f"{name} {'时间' if zh else 'time'}", time, time_box, when)
        page.add_field(f"{name} {'站台' if zh else 'platform'}", platform, platform_box, where)
        y += step


def street(page: Page, entries: int) -> None:
    """House fronts with coloured boards: a shop's name above its telephone number."""
    rng = page.rng
    horizon = int(page.height * 0.85)
    page.draw.rectangle((0, horizon, page.width, page.height), fill=(120, 120, 125))
    board_w, board_h = 118, page.line_spacing * 2 + 14
    columns, rows = max(1, page.width // (board_w + 14)), max(1, horizon // (board_h + 18))
    spots = rng.sample(range(columns * rows), min(entries, columns * rows, 18))
    colors = list(words.COLORS)
    for shop, spot in zip(rng.sample(words.SHOPS[page.language], len(spots)), spots, strict=True):
        cell_w, cell_h = page.width // columns, horizon // rows
        x = spot % columns * cell_w + rng.randint(2, max(3, cell_w - board_w - 2))
        y = spot // columns * cell_h + rng.randint(2, max(3, cell_h - board_h - 2))
        page.draw.rectangle((x, y, x + board_w, y + board_h), fill=words.COLORS[rng.choice(colors)])
        number = words.phone(rng)
        page.text(x + 6, y + 4, shop, ink=(255, 255, 255))
        box = page.text(x + 6, y + 6 + page.line_spacing, number, ink=(255, 255, 255))
        question = words.phrase("phone", page.language, shops=shop)
        page.add_field(shop.lower(), number, box, question)


def tag(page: Page, entries: int) -> None:
    """A small tag somewhere on the page with one value on it; ``entries`` is not used."""
    rng = page.rng
    value = words.value(rng, page.language)
    width, height = page.measure(value) + 12, page.line_spacing + 8
    x = rng.randint(2, max(3, page.width - width - 4))
    y = rng.randint(2, max(3, page.height - height - 4))
    page.draw.rectangle((x, y, x + width, y + height), outline=(150, 150, 150))
    box = page.text(x + 6, y + 3, value)
    page.add_field(
        "标签" if page.language == "zh" else "tag", value, box, words.phrase("tag", page.language)
    )


LAYOUTS: dict[str, Callable[[Page, int], None]] = {
    layout.__name__: layout for layout in (receipt, form, table, chart, sign, street, tag)
}
