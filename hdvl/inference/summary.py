"""Answers as lines of text and as files of images with their boxes."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from hdvl.files import atomic_write
from hdvl.inference.answer import Answer, corners
from hdvl.inference.attention import AttentionMap
from hdvl.protocols import TilePlan


def box_lines(answer: Answer) -> list[str]:
    """Return a line for each box of an answer, in pixels, and for each malformed box."""
    lines = list[str]()
    for found in answer.boxes:
        lines.append(f"box      image {found.image + 1}: {found.label} {corners(found)}")
    return lines + [f"no box   {piece}" for piece in answer.malformed]


def image_line(number: int, plan: TilePlan) -> str:
    """Return a line about how image ``number``, from 1, was cut."""
    grid = f"{plan.rows} x {plan.cols}{' + thumbnail' if plan.thumbnail else ''}"
    grid = grid if plan.windows else "thumbnail alone"
    size = plan.tile_size if plan.is_grid else "x".join(map(str, plan.sizes[0]))
    tiles = f"{plan.count} tile{'' if plan.count == 1 else 's'}"
    return f"image  {number}: {plan.width}x{plan.height} px, {tiles} of {size} px ({grid})"


def attention_line(number: int, found: AttentionMap) -> str:
    """Return a line about the attention of an answer to image ``number``, from 1."""
    line = f"attention image {number}: {found.share:.1%} of all weights"
    if not found.tiles:
        return line
    tile = max(range(len(found.tiles)), key=found.tiles.__getitem__)
    return f"{line}, most of them ({found.tiles[tile]:.1%}) in tile {tile + found.plan.window_slice.start}"


def number_line(answer: Answer) -> str:
    """Return a line with the numbers of tiles and tokens and the time of an answer."""
    n = answer.numbers
    of_all = f" of {n.tiles + n.unselected_tiles}" if n.unselected_tiles else ""
    return (
        f"numbers  {n.tiles}{of_all} tiles, {n.visual_tokens} visual + "
        f"{n.prompt_tokens - n.visual_tokens} text tokens read, {n.new_tokens} written, "
        f"{n.seconds:.2f} s"
    )


def report(answer: Answer) -> str:
    """Return the lines about boxes, images and statistics of an answer."""
    images = [image_line(number, plan) for number, plan in enumerate(answer.plans, 1)]
    return "\n".join(["", *box_lines(answer), *images, *doubts(answer), number_line(answer)])


def doubts(answer: Answer) -> list[str]:
    """A line for each image about which the answer is a guess, and one if the model was not sure of it."""
    lines = [
        f"note   image {number + 1} is unlike the images that this model was trained on; the answer may be "
        "wrong in a way that looks right"
        for number in answer.unfamiliar
    ]
    sure = answer.confidence
    if sure is not None and sure.low:
        meaning = (
            f"the answer is right with a probability of about {sure.value:.0%}"
            if sure.calibrated
            else f"its least probable token has a probability of {sure.value:.2f} (not calibrated)"
        )
        lines.append(f"note   the model is not sure of this answer: {meaning}")
    return lines


def write_drawings(answer: Answer, out: str) -> list[Path]:
    """The images with their boxes: ``out``, or ``out`` with a number where there are several."""
    return write_images("out", out, [partial(answer.draw, n) for n in range(len(answer.images))])


def write_images(key: str, out: str, drawings: Sequence[Callable[[], Image.Image]]) -> list[Path]:
    """Write what ``drawings`` return to ``out``, or to ``out`` with a number where there are several.

    Args:
        key: the key of the command line that ``out`` was given by, for errors.
        out: name of an image file.
        drawings: functions that return one image each.
    """
    if not drawings:
        raise ValueError(f"{key}={out} needs an image to draw on; give image=FILE")
    path = Path(out)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise ValueError(f"{key} must end as images do, such as .png or .jpg, got {out}")
    several = len(drawings) > 1
    names = [
        path.with_stem(f"{path.stem}-{number + 1}") if several else path
        for number in range(len(drawings))
    ]
    for draw, name in zip(drawings, names, strict=True):
        with atomic_write(name) as part:
            draw().save(part, kind)
    return names
