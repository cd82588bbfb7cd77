"""The blocks of described layouts that are text: headings, rules, small print, letters."""

from hdvl.data.synthetic.area import Area, Block, grey, with_case
from hdvl.data.synthetic.values import draw_value, vocabulary


def heading(area: Area, block: Block, entries: int) -> None:
    page, text = area.page, area.option(block, "texts")
    size = page.font_size + area.rng.randint(0, 10)
    spare = area.width - page.measure(text, size)
    if spare < 0 or not area.has_room(size * 2) or area.rng.random() < 0.2:
        return
    place = {"left": 0, "centre": spare // 2, "right": spare}[area.option(block, "align", "left")]
    page.text(area.x + place, area.y, with_case(area.rng, text, None), size=size)
    area.y += int(size * 1.4) + area.rng.randint(2, 12)


def rule(area: Area, block: Block, entries: int) -> None:
    style, draw, right = area.option(block, "style", "line"), area.page.draw, area.x + area.width
    for y in (area.y, area.y + 3)[: 2 if style == "double" else 1]:
        step = 7 if style == "dashed" else area.width
        for x in range(area.x, right, step):
            draw.line(
                (x, y, min(right, x + (4 if style == "dashed" else step)), y), grey(area.page)
            )
    area.y += area.rng.randint(6, 12)


def notes(area: Area, block: Block, entries: int) -> None:
    page, size = area.page, max(9, area.page.font_size - area.rng.randint(1, 4))
    for text in area.rng.choices(vocabulary()["notes"], k=area.rng.randint(*block["count"])):
        words_left = text.split(" ")
        while words_left and area.has_room(size * 2):
            line = [words_left.pop(0)]
            while words_left and page.measure(" ".join([*line, words_left[0]]), size) <= area.width:
                line.append(words_left.pop(0))
            page.text(area.x, area.y, " ".join(line), size=size)
            area.y += int(size * 1.35)
    area.y += 6


def letter(area: Area, block: Block, entries: int) -> None:
    page, step = area.page, area.page.line_spacing + area.rng.randint(2, 8)
    letters = vocabulary()["letters"]
    x = area.x
    for entry in area.rng.sample(letters, min(area.rng.randint(*block["count"]), len(letters))):
        text, names = entry
        if any(name in area.used for name in names):
            continue
        asked = iter(names.items())
        for piece in text.split(" "):
            bare = piece.rstrip(".,")
            name, kind = next(asked) if bare.startswith("{") else (None, "")
            shown = draw_value(area.rng, kind) if name else piece
            if x + page.measure(shown) > area.x + area.width:
                x, area.y = area.x, area.y + step
            if not area.has_room(step * 2) or x + page.measure(shown) > page.width - 4:
                return
            box = page.text(x, area.y, shown)
            if name:
                area.used.add(name)
                area.add_field(name, shown, box)
                tail = piece[len(bare) :]
                if tail:
                    page.text(x + page.measure(shown), area.y, tail)
                    shown += tail
            x += page.measure(shown + " ")
    area.y += step + 6
