"""Simulates a camera or a scanner: rotation, shading, blur, noise and compression."""

import io
import math
import random
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from hdvl.data.synthetic.page import Document, Field, Glyph
from hdvl.protocols import Box


def photographed(document: Document, rng: random.Random, *, turn: float = 5.0) -> Document:
    """The document as a photograph or scan of it may look; boxes are moved accordingly.

    Each effect is applied to a random part of the documents.

    Args:
        document: a page as it was drawn.
        rng: makes all choices.
        turn: the most that a page is turned, in degrees to either side.
    """
    if rng.random() < 0.6:
        document = turned(document, rng.uniform(-turn, turn))
    pixels = np.asarray(document.image, dtype=np.float32)
    noise = np.random.default_rng(rng.randrange(2**32))
    if rng.random() < 0.4:
        pixels = pixels * _shade(pixels.shape[:2], rng)[..., None]
    if rng.random() < 0.4:
        pixels = pixels + _texture(pixels.shape[:2], noise, rng.uniform(3, 14))[..., None]
    if rng.random() < 0.3:
        pixels = pixels * np.array([rng.uniform(0.85, 1.0) for _ in range(3)], np.float32)
    if rng.random() < 0.5:
        pixels = pixels + noise.normal(0, rng.uniform(1, 9), pixels.shape).astype(np.float32)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    if rng.random() < 0.5:
        image = _compressed(image, rng.randint(40, 92))
    return replace(document, image=image)


def turned(document: Document, degrees: float) -> Document:
    """The document turned counter-clockwise about its middle; fields that leave the image are dropped.

    A field's box becomes the smallest upright one around the turned box.
    """
    width, height = document.image.size
    middle = width / 2, height / 2
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def move(x: float, y: float) -> tuple[float, float]:
        x, y = x - middle[0], y - middle[1]
        return middle[0] + x * cosine + y * sine, middle[1] - x * sine + y * cosine

    def around(box: Box) -> Box:
        x0, y0, x1, y1 = box
        xs, ys = zip(*(move(x, y) for x in (x0, x1) for y in (y0, y1)), strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def moved(box: Box) -> Box:
        """A character's box keeps its size."""
        x, y = move((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        across, down = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
        return x - across, y - down, x + across, y + down

    def inside(box: Box) -> bool:
        return box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height

    image = document.image.rotate(
        degrees, Image.Resampling.BICUBIC, fillcolor=document.image.getpixel((0, 0))
    )
    fields: list[Field] = [replace(field, box=around(field.box)) for field in document.fields]
    glyphs = tuple(Glyph(g.char, moved(g.box), moved(g.ink), g.word) for g in document.glyphs)
    kept = tuple(field for field in fields if inside(field.box))
    return replace(document, image=image, fields=kept, glyphs=glyphs)


def picture(width: int, height: int, rng: random.Random) -> Image.Image:
    """A picture that is no document: one colour, a gradient, noise, clouds or shapes."""
    noise = np.random.default_rng(rng.randrange(2**32))
    pixels: np.ndarray
    colors = [tuple(rng.randint(0, 255) for _ in range(3)) for _ in range(2)]
    kind = rng.choice(("blank", "blank", "gradient", "noise", "clouds", "shapes"))
    if kind == "blank":
        paper = rng.choice(
            ((255, 255, 255), tuple(rng.randint(200, 255) for _ in range(3)), colors[0])
        )
        pixels = np.full((height, width, 3), paper, np.float32)
        pixels += noise.normal(0, rng.choice((0, 0, 3, 8)), pixels.shape)
    elif kind == "noise":
        shape = (height // 4 + 1, width // 4 + 1, 3)
        grains = noise.integers(0, 256, shape).astype(np.float32)
        size = rng.choice((1, 2, 4))
        pixels = grains.repeat(size, 0).repeat(size, 1)
        pixels = np.tile(pixels, (4 // size, 4 // size, 1))[:height, :width]
    elif kind == "clouds":
        pixels = np.stack([_texture((height, width), noise, 90) + 128 for _ in range(3)], -1)
    else:
        ramp = np.linspace(0, 1, width, dtype=np.float32)[None, :, None]
        if rng.random() < 0.5:
            ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
        one, other = (np.array(color, np.float32) for color in colors)
        pixels = np.broadcast_to(one + (other - one) * ramp, (height, width, 3))
    image = Image.fromarray(np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8)))
    return _with_shapes(image, rng) if kind == "shapes" else image


def _with_shapes(image: Image.Image, rng: random.Random) -> Image.Image:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(2, 30)):
        x, y = rng.randint(0, image.width), rng.randint(0, image.height)
        edges = (x, y, x + rng.randint(5, 250), y + rng.randint(5, 250))
        color = tuple(rng.randint(0, 255) for _ in range(3))
        rng.choice((draw.rectangle, draw.ellipse, draw.line))(edges, fill=color)
    return image


def _shade(size: tuple[int, int], rng: random.Random) -> np.ndarray:
    """Light that falls off across the page, rows cols in 0.5..1."""
    height, width = size
    angle = rng.uniform(0, 2 * math.pi)
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j].astype(np.float32)
    along = across * math.cos(angle) + down * math.sin(angle)
    along = (along - along.min()) / (along.max() - along.min())
    if rng.random() < 0.4:  # the edge of a shadow instead of a gradient
        along = 1 / (1 + np.exp(-(along - rng.uniform(0.2, 0.8)) * rng.uniform(10, 60)))
    shade: np.ndarray = 1 - rng.uniform(0.1, 0.45) * along
    return shade


def _texture(size: tuple[int, int], noise: np.random.Generator, strength: float) -> np.ndarray:
    """Soft stains, rows cols around 0."""
    small = noise.normal(0, 1, (size[0] // 24 + 2, size[1] // 24 + 2)).astype(np.float32)
    image = Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)
    stains: np.ndarray = np.asarray(image) * strength
    return stains


def _compressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")
