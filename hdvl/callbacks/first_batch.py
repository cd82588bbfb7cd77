"""Shows the first batch as the model gets it: images with tiles, and text with its supervised part."""

import html
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from hdvl.callbacks.loggers import show_image, show_table
from hdvl.callbacks.samples import Piece, image_of, pieces_of, samples_of
from hdvl.callbacks.trainer import training_data
from hdvl.data.conversations import name_of
from hdvl.drawing import draw_tiles
from hdvl.html import embedded, write_html
from hdvl.loss import IGNORED
from hdvl.model import VLM
from hdvl.processor import Batch, Sample
from hdvl.training.module import VLMModule
from hdvl.views import split_pixels, view_count

ABOUT = (
    "What the model gets, taken from the tensors of the first batch: images are put together from "
    "their tiles, numbered outlines are the tiles, and the text that the loss is computed on is marked."
)
STYLE = """
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: .8rem }
mark { background: #b8efc4 } .image { color: #1f5fa8 }
"""


class FirstBatch(pl.Callback):
    """Writes ``folder/first_batch.html`` before the first step of a run, and passes the same to the loggers.

    Args:
        folder: the run folder.
        samples: maximum number of samples that are shown.
    """

    def __init__(self, *, folder: str, samples: int = 8) -> None:
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        self.path, self.samples = Path(folder) / "first_batch.html", samples

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: VLMModule, batch: Batch, batch_idx: int
    ) -> None:
        """Write the page, unless the run has one."""
        if self.path.exists() or not trainer.is_global_zero:
            return
        vlm, data = pl_module.vlm, training_data(trainer)
        names, texts, sections, number = list[str](), list[str](), list[str](), 0
        for sample in samples_of(batch, vlm)[: self.samples]:
            name = "a row" if sample.row is None else name_of(data.conversations, sample.row)
            pieces, figures = pieces_of(sample, vlm), list[str]()
            for image in images_of(sample):
                show_image(trainer.loggers, f"first_batch/{number}", image, trainer.global_step)
                figures.append(f'<img alt="image {number}" src="{embedded(image)}">\n')
                number += 1
            names.append(name)
            texts.append("".join(marked(piece, "**{}**") for piece in pieces))
            sections.append(section(name, sample, pieces, figures))
        rows = list(zip(names, texts, strict=True))
        show_table(trainer.loggers, "first_batch", ("row", "text"), rows, trainer.global_step)
        body = f"<p>{ABOUT}</p>\n<style>{STYLE}</style>\n{''.join(sections)}"
        write_html(self.path, title=f"First batch: {numbers(batch, vlm)}", body=body)


def images_of(sample: Sample) -> list[Any]:
    """Return the images of ``sample`` with the outlines of their tiles."""
    pixels = split_pixels(sample.pixels, sample.plans)
    pairs = zip(pixels, sample.plans, strict=True)
    return [draw_tiles(*image_of(own, plan)) for own, plan in pairs]


def section(name: str, sample: Sample, pieces: list[Piece], figures: list[str]) -> str:
    """Return one sample as HTML."""
    text = "".join(
        marked(
            Piece(html.escape(piece.text), piece.kind), "<mark>{}</mark>", "<b class=image>{}</b>"
        )
        for piece in pieces
    )
    supervised = int((sample.labels != IGNORED).sum())
    images = f"{len(sample.plans)} image{'s' * (len(sample.plans) != 1)}"
    return (
        f"<section>\n<h2>{html.escape(name)}</h2>\n<p>{len(sample.ids)} tokens, {supervised} of them "
        f"supervised; {images}, {view_count(sample.pixels)} tiles</p>\n"
        f"<pre>{text}</pre>\n{''.join(figures)}</section>\n"
    )


def marked(piece: Piece, supervised: str, image: str = "{}") -> str:
    """Return the text of a piece in the markup of its kind."""
    return {"read": "{}", "said": supervised, "image": image}[piece.kind].format(piece.text)


def numbers(batch: Batch, vlm: VLM) -> str:
    """Return a line on the size of the batch."""
    supervised, tokens = int((batch.labels != IGNORED).sum()), int(batch.attention_mask.sum())
    kind = "packed" if batch.segments else "padded"
    return (
        f"{len(samples_of(batch, vlm))} samples, {tokens} tokens ({supervised} supervised), "
        f"{view_count(batch.pixels)} tiles, {kind}"
    )
