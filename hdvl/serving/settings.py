"""What a server allows, and how much of it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from hdvl.sequences import one_or_several


@dataclass(frozen=True)
class Settings:
    """Bounds and permissions of a server. Every refusal names the setting that it comes from.

    Attributes:
        max_waiting: the most requests that wait for a slot of the engine; further ones are answered with
            status 429.
        max_new_tokens: the most ids of an answer that a request may ask for.
        max_choices: the most answers to one request (``n``).
        max_body_mb: the largest body of a request, in MiB.
        max_images: the most images of a request.
        max_image_mb: the largest file of an image, in MiB.
        max_image_pixels: the most pixels of an image; larger ones are refused before they are decoded.
        body_seconds: how long a client may take to send its request.
        request_seconds: how long an answer may take; it then ends with status 504.
        fetch_seconds: how long fetching a remote image may take.
        allowed_hosts: hosts from which images are fetched, as ``name`` or ``name:port``. Names that resolve
            to private addresses are refused all the same; an address of this list is not.
        allowed_folders: folders whose images may be named by ``file://`` URLs.
        api_keys: keys of which a request must have one; empty for none.
        low_detail_tiles: the most tiles of an image that is sent with ``detail: "low"``; ``None`` ignores
            ``detail``, so that no client is answered about smaller images than it sent.

    Raises:
        ValueError: a number is out of its range.
    """

    max_waiting: int = 64
    max_new_tokens: int = 4096
    max_choices: int = 8
    max_body_mb: float = 64
    max_images: int = 16
    max_image_mb: float = 32
    max_image_pixels: int = 64_000_000
    body_seconds: float = 30
    request_seconds: float = 600
    fetch_seconds: float = 10
    allowed_hosts: Sequence[str] = ()
    allowed_folders: Sequence[str] = ()
    api_keys: Sequence[str] = ()
    low_detail_tiles: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and value <= 0 and field.name != "max_waiting":
                raise ValueError(f"{field.name} must be above 0, got {value}")
        if self.max_waiting < 0:
            raise ValueError(f"max_waiting must be at least 0, got {self.max_waiting}")
        for name in ("allowed_hosts", "allowed_folders", "api_keys"):
            object.__setattr__(self, name, one_or_several(getattr(self, name), name))
        for folder in self.allowed_folders:
            if not Path(folder).is_dir():
                raise ValueError(f"allowed_folders must be folders, got {folder!r}")


def read_keys(path: str | Path) -> tuple[str, ...]:
    """The API keys of a file, one on each line. Empty lines and lines that begin with ``#`` are left out.

    Raises:
        ValueError: the file holds no key.
        OSError: the file cannot be read.
    """
    lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ValueError(f"api_keys_file must hold a key on a line of its own, {path} has none")
    return keys
