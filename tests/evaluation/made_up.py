"""Small files in the official formats of benchmarks, written by the tests."""

import base64
import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def png(seed: int = 0, size: tuple[int, int] = (48, 40)) -> bytes:
    """A PNG file of random pixels."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, value: Any) -> Path:
    """Write bytes, text, JSON lines (a list, to ``.jsonl``) or JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, bytes):
        path.write_bytes(value)
    elif isinstance(value, str):
        path.write_text(value, encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in value), encoding="utf-8")
    else:
        path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_tsv(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A table as VLMEvalKit publishes it; bytes become base64."""
    kept = [dict(row) for row in rows]
    names = list(dict.fromkeys(name for row in kept for name in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, delimiter="\t", restval="", lineterminator="\n")
        writer.writeheader()
        for row in kept:
            encoded = {
                name: base64.b64encode(cell).decode() if isinstance(cell, bytes) else cell
                for name, cell in row.items()
            }
            writer.writerow(encoded)
    return path


def docvqa(root: Path, questions: int = 4, pages: int = 2) -> Path:
    """DocVQA's validation file: ``questions`` questions about ``pages`` pages, in turn."""
    for number in range(pages):
        write(root / f"docvqa/documents/page{number}.png", png(number))
    rows = [
        {
            "questionId": 100 + number,
            "question": f"What is word {number}?",
            "question_types": ["form"],
            "image": f"documents/page{number % pages}.png",
            "docId": number % pages,
            "answers": [f"word{number}"],
        }
        for number in range(questions)
    ]
    return write(root / "docvqa/val_v1.0_withQT.json", {"dataset_name": "docvqa", "data": rows})
