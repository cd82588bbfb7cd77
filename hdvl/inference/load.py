"""A pipeline out of a model folder, or of a shipped model by its name."""

from pathlib import Path
from typing import Any

import torch

from hdvl.checkpoints import load_folder
from hdvl.inference.pipeline import Pipeline

SHIPPED = "hdvl/"
"""Names that begin so mean the models inside this package."""

ASSETS = Path(__file__).resolve().parent.parent / "assets"


def load(
    source: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    max_length: int | None = None,
    **overrides: Any,
) -> Pipeline:
    """The pipeline of a saved model.

    >>> load("runs/docs", device="cuda", tiler={"max_tiles": 12})  # doctest: +SKIP

    Args:
        source: a model folder, or ``hdvl/small``, the model that is shipped with this package.
        device: where the model runs; None stays on the CPU.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None keeps what is stored.
        max_length: most ids of a prompt.
        **overrides: numbers of the model's parts to change; a mapping with ``_target_`` replaces
            the part.

    Raises:
        ValueError: no such folder or model, or weights that do not fit.
    """
    vlm = load_folder(find_folder(source), overrides=overrides)
    return Pipeline(model=vlm.to(device=device, dtype=as_dtype(dtype)), max_length=max_length)


def find_folder(source: str | Path) -> Path:
    """The folder that ``source`` means."""
    text = str(source)
    if not text.startswith(SHIPPED):
        return Path(source)
    folder = ASSETS / text.removeprefix(SHIPPED)
    if not folder.is_dir():
        shipped = sorted(f"{SHIPPED}{path.parent.name}" for path in ASSETS.glob("*/config.yaml"))
        raise ValueError(
            f"model {text!r} is not shipped with this hdvl, which has: {', '.join(shipped) or 'none'}; "
            "give a model folder"
        )
    return folder


def as_dtype(name: str | None) -> torch.dtype | None:
    """The torch dtype called ``name``."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name is not None and name not in known:
        raise ValueError(f"dtype must be one of {', '.join(known)} or null, got {name!r}")
    return None if name is None else known[name]
