"""Qwen's tokenizer, if its rank file is available, and recorded ids of the published tokenizer."""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hdvl.llms import load_qwen_tokenizer
from hdvl.llms.qwen_tiktoken import FILE

HERE = Path(__file__).resolve().parent
GOLDEN: dict[str, Any] = json.loads(
    (HERE / "golden" / "qwen_tokenizer.json").read_text(encoding="utf-8")
)


def rank_file() -> Path:
    """``qwen.tiktoken``: named by HDVL_QWEN_TIKTOKEN, or beside the checkout."""
    beside = HERE.parents[1] / "shared" / "golden" / FILE
    return Path(os.environ.get("HDVL_QWEN_TIKTOKEN", beside))


@cache
def _load(folder: Path) -> Any:
    return load_qwen_tokenizer(folder)


@pytest.fixture(scope="session")
def published() -> Any:
    """Qwen's tokenizer. Tests read it and leave it as it is."""
    file = rank_file()
    if file.name != FILE or not file.is_file():
        pytest.skip(f"{FILE} is not part of this repository; HDVL_QWEN_TIKTOKEN may name it")
    return _load(file.parent)


def without_paths(ids: list[int]) -> list[int]:
    """Ids between ``<img>`` and ``</img>`` (bytes of a path, and padding) as slots."""
    inside, out = False, []
    for token in ids:
        inside = inside and token != 151858
        out.append(151859 if inside else token)
        inside = inside or token == 151857
    return out
