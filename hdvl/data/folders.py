"""Checks of the folders in which rows find their images."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

KEY = "image_folder"
_MISSING = "No such file or directory"
_MOST = 0.9


def check_image_folders(data: Mapping[str, Any]) -> None:
    """Check that each ``image_folder`` of the training and the validation data is a folder.

    Args:
        data: the ``data`` group of the config, as plain data.

    Raises:
        ValueError: one is none; the message names its key, such as ``data.train.image_folder``.
    """
    for part in ("train", "validation"):
        for key, folder in _folders(data.get(part), f"data.{part}"):
            if not Path(folder).is_dir():
                raise ValueError(
                    f"{key} must be the folder that the paths of images in the rows are relative to, "
                    f"there is no folder {folder}"
                )


def _folders(node: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the value of each ``image_folder`` below ``node``."""
    if not isinstance(node, Mapping):
        return
    for name, value in node.items():
        if name == KEY and isinstance(value, str):
            yield f"{place}.{name}", value
        else:
            yield from _folders(value, f"{place}.{name}")


def are_missing_images(reasons: Collection[str], rows: int) -> bool:
    """Return whether nearly all of ``rows`` rows failed because files do not exist.

    Args:
        reasons: why rows failed, one for each of them.
        rows: the number of rows that were read.
    """
    missing = sum(_MISSING in reason for reason in reasons)
    return missing > 0 and missing >= _MOST * rows


ADVICE = (
    f"nearly all rows name images that do not exist; correct data.train.{KEY}, the folder that their "
    "paths are relative to"
)
"""What to do if :func:`are_missing_images`."""
