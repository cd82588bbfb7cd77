"""Recognises rows whose images are looked for in a wrong folder."""

from collections.abc import Collection

_MISSING = "No such file or directory"
_MOST = 0.9


def are_missing_images(reasons: Collection[str], rows: int) -> bool:
    """Return whether nearly all of ``rows`` rows failed because files do not exist.

    Args:
        reasons: why rows failed, one for each of them.
        rows: the number of rows that were read.
    """
    missing = sum(_MISSING in reason for reason in reasons)
    return missing > 0 and missing >= _MOST * rows


ADVICE = (
    "nearly all rows name images that do not exist; correct data.train.image_folder, the folder that their "
    "paths are relative to"
)
"""What to do if :func:`are_missing_images`."""
