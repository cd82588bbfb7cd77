"""What a server allows, and how much of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hdvl.decoding import SamplingParams
from hdvl.sequences import one_or_several


@dataclass(frozen=True)
class Settings:
    """Bounds and permissions of a server. Every refusal names the setting that it comes from.

    Attributes:
        max_waiting: the most requests that wait for a slot of the engine; further ones are answered with
            status 429.
        max_connections: the most open connections, idle ones included; further ones get status 503. Each
            takes a file descriptor, of which the system allows a process a number (``ulimit -n``).
        max_new_tokens: the most ids of an answer that a request may ask for.
        max_choices: the most answers to one request (``n``).
        max_tiles: the largest ``max_tiles`` that a request may ask for.
        max_characters: the most characters of the text of a request, which is tokenised before its length in
            ids is known.
        max_body_mb: the largest body of a request, in MiB.
        max_images: the most images of a request.
        max_image_mb: the largest file of an image, in MiB.
        max_image_pixels: the most pixels of an image; larger ones are refused before they are decoded.
        header_seconds: how long a client may take to send the headers of a request.
        body_seconds: how long a client may take to send the body of a request.
        send_seconds: how long a client may leave a piece of a stream unread; the stream then ends.
        prepare_seconds: how long decoding and cutting the images of a request may take.
        drain_seconds: how long a server that is stopped waits for the answers that it has begun.
        request_seconds: how long an answer may take; it then ends with status 504.
        fetch_seconds: how long fetching a remote image may take.
        allowed_hosts: hosts from which images are fetched, as ``name`` or ``name:port``. Names that resolve
            to private addresses are refused all the same; an address of this list is not.
        allowed_folders: folders whose images may be named by ``file://`` URLs.
        api_keys: keys of which a request must have one; empty for none.
        served_hosts: names that the server answers to, by the header ``Host``; empty for all. A web page
            elsewhere could otherwise reach a server on the loopback address by a name that resolves to it.
        defaults: options of answers that requests leave out, see :class:`hdvl.inference.SamplingParams`.
        low_detail_tiles: the most tiles of an image that is sent with ``detail: "low"``; ``None`` ignores
            ``detail``, so that no client is answered about smaller images than it sent.

    Raises:
        ValueError: a number is out of its range.
    """

    max_waiting: int = 64
    max_connections: int = 512
    max_new_tokens: int = 4096
    max_choices: int = 8
    max_tiles: int = 64
    max_characters: int = 1_000_000
    max_body_mb: float = 64
    max_images: int = 16
    max_image_mb: float = 32
    max_image_pixels: int = 64_000_000
    header_seconds: float = 10
    body_seconds: float = 30
    send_seconds: float = 60
    prepare_seconds: float = 60
    request_seconds: float = 600
    drain_seconds: float = 60
    fetch_seconds: float = 10
    allowed_hosts: Sequence[str] = ()
    allowed_folders: Sequence[str] = ()
    api_keys: Sequence[str] = ()
    served_hosts: Sequence[str] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    low_detail_tiles: int | None = None

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, int | float) and value <= 0 and one.name != "max_waiting":
                raise ValueError(f"{one.name} must be above 0, got {value}")
        if self.max_waiting < 0:
            raise ValueError(f"max_waiting must be at least 0, got {self.max_waiting}")
        for name in ("allowed_hosts", "allowed_folders", "api_keys", "served_hosts"):
            object.__setattr__(self, name, one_or_several(getattr(self, name), name))
        for folder in self.allowed_folders:
            if not Path(folder).is_dir():
                raise ValueError(f"allowed_folders must be folders, got {folder!r}")
        SamplingParams.of(**self.defaults)  # mistakes in it are found now, not at the first request


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


LOOPBACK = ("127.0.0.1", "localhost", "::1")


def own_names(host: str) -> tuple[str, ...]:
    """The names of a server that listens on ``host``, if that is the loopback address; else none, for all."""
    return (*LOOPBACK, "[::1]") if host in LOOPBACK else ()
