"""Images written into text as ``<img>path</img>``: local files of one folder, and nothing else."""

import re
from pathlib import Path

from hdvl.messages import split_inline
from hdvl.templates import IMAGE

MAX_PATH_BYTES = 254
"""Qwen-VL's published code holds a path in 256 slots and needs two more to find its end."""

_URL = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*://|data:|file:)", re.IGNORECASE)


def take_images(text: str, folder: str | Path) -> tuple[str, tuple[Path, ...]]:
    """``text`` with ``<image>`` for each ``<img>path</img>``, and the files in their order.

    A path is relative to ``folder``, or absolute and inside it, also after all symbolic links are
    followed. Nothing is ever fetched.

    Raises:
        ValueError: a tag is not closed or not opened, or a path leads out of ``folder``, is a URL, is no
            file, or is longer than 254 bytes.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise ValueError(f"image_folder must be a folder, got {str(folder)!r}")
    if IMAGE in text:
        raise ValueError(
            f"images must be written as {IMAGE} or as <img>path</img>, not both, got {text[:200]!r}"
        )
    words, paths = split_inline(text)
    return words, tuple(_file(path, root) for path in paths)


def _file(written: str, root: Path) -> Path:
    size = len(written.encode("utf-8", "surrogatepass"))
    if size > MAX_PATH_BYTES:
        raise ValueError(
            f"a path between <img> and </img> must have at most {MAX_PATH_BYTES} bytes, got {size}: "
            f"{written[:80]!r}"
        )
    if _URL.match(written):
        raise ValueError(
            f"<img> must name a file, got the URL {written!r}, which is not fetched; download it"
        )
    try:
        file = (root / written).resolve()
        known = file.is_relative_to(root) and file.is_file()
    except (
        ValueError,
        OSError,
        RuntimeError,
    ) as error:  # a null byte, a name too long, a loop of links
        raise ValueError(f"<img> must name a file, got {written!r}: {error}") from error
    if not known:
        # One sentence for both: a text must not be able to find out which files there are elsewhere.
        raise ValueError(f"<img> must name a file inside image_folder, got {written!r}")
    return file
