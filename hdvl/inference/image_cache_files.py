"""Visual tokens of images in files, for later processes and for others that work at the same time."""

import logging
import os
import threading
import time
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hdvl.files import atomic_write
from hdvl.version import __version__

logger = logging.getLogger("hdvl.inference")
_NAME = "tokens"
IMAGE_CACHE_FOLDER_BYTES = 10 * 2**30
"""Bytes of visual tokens in files, where a folder is given without a bound."""


class ImageCacheFiles:
    """Visual tokens in a folder, one file an image. The files used least recently go first.

    Several processes may share the folder: files are written whole, under names that say what they hold. A
    name is a hash of the views of the image, of how it was cut, and of the encoder, bridge and merger with
    their weights, precision and kind of device, so that one folder serves any number of models.

    Args:
        folder: the folder; it is created.
        limit: the most bytes of all files.
        model: what encodes the images.

    Attributes:
        hits: images that were found here.
        evictions: files that were removed to make room.
        bytes: bytes of all files when they were last counted.

    Raises:
        ValueError: the limit is below 1.
    """

    def __init__(self, folder: str | Path, limit: int, model: nn.Module) -> None:
        if limit < 1:
            raise ValueError(f"image_cache_folder_bytes must be at least 1, got {limit}")
        self.folder, self.limit, self._model = Path(folder), limit, model
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hits = self.evictions = 0
        self._lock = threading.Lock()
        self._encoder: bytes | None = None
        self.bytes = self._counted()

    def forget_weights(self) -> None:
        """Let the next image be named after the weights that the model has then."""
        self._encoder = None

    def get(self, key: bytes) -> Tensor | None:
        """The visual tokens of an image (m, e) on the device of the model; ``None`` if they are not here."""
        path = self._path(key)
        try:
            tokens: Tensor = load_file(path)[_NAME]
            os.utime(path)
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError) as error:
            logger.warning("%s holds no visual tokens (%s) and is removed", path, error)
            path.unlink(missing_ok=True)
            return None
        with self._lock:
            self.hits += 1
        return tokens.to(next(self._model.parameters()).device)

    def put(self, key: bytes, tokens: Tensor) -> None:
        """Write the visual tokens of an image, and make room if the folder has become too large."""
        path, size = self._path(key), tokens.numel() * tokens.element_size()
        if size > self.limit or path.exists():
            return
        with atomic_write(path, durable=False) as part:
            save_file({_NAME: tokens.detach().cpu().contiguous()}, part)
        with self._lock:
            self.bytes += size
            if self.bytes > self.limit:
                self._make_room()

    def _path(self, key: bytes) -> Path:
        if self._encoder is None:
            self._encoder = encoder_fingerprint(self._model)
        name = blake2b(self._encoder + key, digest_size=24).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def _files(self) -> list[tuple[float, int, Path]]:
        """When each file was used last, its size and its path; others may be removing files meanwhile."""
        found = []
        for path in self.folder.glob("*/*.safetensors"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append((status.st_mtime, status.st_size, path))
        return found

    def _counted(self) -> int:
        return sum(size for _, size, _ in self._files())

    def _make_room(self) -> None:
        """Remove files down to nine tenths of the limit, so that they are not counted at every image."""
        files = sorted(self._files())
        self.bytes = sum(size for _, size, _ in files)
        for _, size, path in files:
            if self.bytes <= 0.9 * self.limit:
                break
            path.unlink(missing_ok=True)
            self.bytes -= size
            self.evictions += 1


def encoder_fingerprint(model: nn.Module) -> bytes:
    """A hash of what visual tokens depend on besides the image: all of a model but its language model."""
    start, found = time.perf_counter(), blake2b(__version__.encode(), digest_size=24)
    device = next(model.parameters()).device.type
    precision = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    found.update(repr((torch.__version__, device, precision)).encode())
    for name, part in model.named_children():
        if name == "llm":
            continue
        found.update(repr(part).encode())
        for key, value in part.state_dict().items():
            if not isinstance(value, Tensor):
                found.update(repr((name, key, value)).encode())
                continue
            found.update(repr((name, key, value.dtype, tuple(value.shape))).encode())
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    logger.debug("the weights of the encoder were hashed in %.1f s", time.perf_counter() - start)
    return found.digest()
