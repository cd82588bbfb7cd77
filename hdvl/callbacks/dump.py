"""Writes batches to disk, for reading and for computing them again."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hdvl.callbacks.samples import pieces_of, samples_of
from hdvl.data.conversations import Conversations, name_of
from hdvl.files import atomic_folder
from hdvl.model import VLM
from hdvl.processor import Batch
from hdvl.protocols import Segment, TilePlan
from hdvl.views import groups

TENSORS = ("input_ids", "labels", "attention_mask")


def save_batches(
    folder: Path, batches: Sequence[Batch], *, vlm: VLM, source: Conversations, reason: str
) -> Path:
    """Write ``batch-0.safetensors`` (see :func:`load_batch`), ``batch-0.txt``, ... to the new ``folder``.

    The text file holds ``reason`` and, for each sample, its row in ``source``, the sizes of its images,
    and its text, in which supervised text is enclosed in ``<<`` and ``>>``.
    """
    from safetensors.torch import save

    with atomic_folder(folder) as written:
        for number, batch in enumerate(batches):
            tensors = {name: getattr(batch, name).contiguous().cpu() for name in TENSORS}
            # Views of one size are "pixels", views of several sizes "pixels.0", "pixels.1" and so on.
            for index, group in enumerate(groups(batch.pixels)):
                name = f"pixels.{index}" if isinstance(batch.pixels, tuple) else "pixels"
                tensors[name] = group.contiguous().cpu()
            rest = {
                "plans": [asdict(plan) for plan in batch.plans],
                "segments": batch.segments,
                "rows": batch.rows,
            }
            file = written / f"batch-{number}.safetensors"
            file.write_bytes(save(tensors, {"batch": json.dumps(rest)}))
            text = f"{reason}\n\n{text_of(batch, vlm, source)}"
            file.with_suffix(".txt").write_text(text, encoding="utf-8")
    return folder


def load_batch(path: str | Path) -> Batch:
    """Read a batch that :func:`save_batches` wrote."""
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        rest: dict[str, Any] = json.loads(file.metadata()["batch"])
        tensors = {name: file.get_tensor(name) for name in TENSORS}
        names = sorted(name for name in file.keys() if name.startswith("pixels"))
        pixels = tuple(file.get_tensor(name) for name in names)
    return Batch(
        **tensors,
        pixels=pixels if len(pixels) > 1 else pixels[0],
        plans=tuple(TilePlan.from_plain(plan) for plan in rest["plans"]),
        segments=None if rest["segments"] is None else tuple(map(_segment, rest["segments"])),
        rows=tuple(rest["rows"]),
    )


def row_names(batch: Batch, source: Conversations) -> list[str]:
    """Return the names of the rows of ``batch``."""
    return [name_of(source, row) for row in batch.rows if row is not None]


def text_of(batch: Batch, vlm: VLM, source: Conversations) -> str:
    """Return the samples of ``batch`` as text."""
    texts = []
    for sample in samples_of(batch, vlm):
        name = "a row" if sample.row is None else name_of(source, sample.row)
        pieces = pieces_of(sample, vlm)
        text = "".join(f"<<{p.text}>>" if p.kind == "said" else p.text for p in pieces)
        texts.append(f"=== {name}: {len(sample.ids)} tokens\n{text}\n")
    return "\n".join(texts)


def _segment(plain: int | list[int]) -> Segment:
    return plain if isinstance(plain, int) else tuple(plain)


def finite(tensor: torch.Tensor) -> bool:
    """Return whether all values of ``tensor`` are finite."""
    return bool(torch.isfinite(tensor).all())
