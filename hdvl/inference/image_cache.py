"""A cache of the visual tokens of images, by the content of the images."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hdvl.decoding.prefix_cache import Keys
from hdvl.inference.image_cache_files import ImageCacheFiles
from hdvl.model import VLM
from hdvl.protocols import FeatureCache, Pixels, TilePlan
from hdvl.views import groups, join_pixels, map_pixels

CachedImage = tuple[bytes, Pixels, TilePlan]
"""The digest of an image, its views, and its tile plan."""

SAMPLE = 64
"""The number of values of each weight that are compared to detect changes of the weights."""


def digest(pixels: Pixels, plan: TilePlan) -> bytes:
    """Return the cache key of an image: a hash of the bytes of its views and of its plan."""
    found = blake2b(repr(plan).encode(), digest_size=32)
    for part in groups(pixels):
        last = part.permute(0, 2, 3, 1)  # tilers write the channels of a pixel side by side
        flat = last if last.is_contiguous() else part.contiguous()
        found.update(repr((tuple(flat.shape), flat is last)).encode())
        found.update(flat.cpu().numpy().data)
    return found.digest()


def prompt_keys(
    ids: Int[Tensor, " s"], image_token_id: int, images: Sequence[tuple[bytes, int]]
) -> Keys:
    """Return the keys of the positions of a prompt in the prefix cache.

    Args:
        ids: the ids of the prompt.
        image_token_id: the id of image slots.
        images: the digest and the number of slots of each image, in order of appearance.

    Returns:
        (s, 2): for text its id and 0; for image slots numbers that depend on the image and the position
        within it.
    """
    keys = np.zeros((len(ids), 2), np.int64)
    keys[:, 0] = ids.cpu().numpy()
    slots = np.flatnonzero(keys[:, 0] == image_token_id)
    start = 0
    for key, count in images:
        first, second = np.frombuffer(key[:16], np.int64)
        places = slots[start : start + count]
        keys[places, 0] = first ^ np.arange(len(places))
        keys[places, 1] = second | 1  # text has 0 here
        start += count
    return keys


class WeightsWatch:
    """Detects whether the weights of a module, or the autocast precision, have changed.

    torch counts the writes to a tensor, except those through ``.data``. These are detected by a sample of the
    values of each tensor, unless only a few values were written.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._counted: tuple[Any, ...] | None = None
        self._places: tuple[int, ...] = ()
        self._views: list[list[Tensor]] = []
        self._values: list[Tensor] = []

    @torch.no_grad()
    def changed(self) -> bool:
        """Whether something has changed since the last call; false at the first call."""
        held = (*self._module.parameters(), *self._module.buffers())
        # Weights that are offloaded are on meta between two calls, and are not written to.
        tensors = [inner for one in held for inner in _stored(one) if not inner.is_meta]
        device = tensors[0].device.type if tensors else "cpu"
        precision = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        places = tuple(one.data_ptr() for one in tensors)
        counted = (precision, tuple(0 if one.is_inference() else one._version for one in tensors))
        first, before = self._counted is None, self._values
        moved = places != self._places
        if moved:
            self._places, self._views = places, _sampled(tensors)
        self._values = [torch.cat(views) for views in self._views]
        same = counted == self._counted and not moved
        self._counted = counted
        return not first and not (
            same and all(torch.equal(*pair) for pair in zip(before, self._values, strict=True))
        )


def _stored(tensor: Tensor) -> list[Tensor]:
    """The plain tensors that a tensor consists of: several where a library packs numbers and scales."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [inner for name in names for inner in _stored(getattr(tensor, name))]


def _sampled(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """A few values of each tensor, in groups that can be concatenated."""
    found: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for one in tensors:
        flat = one.detach()
        flat = flat.view(-1) if flat.is_contiguous() else flat
        while flat.ndim > 1:  # the values are views, so that they follow the weights
            flat = flat[0]
        picked = flat[:: max(1, len(flat) // SAMPLE)]
        found.setdefault((one.dtype, one.device), []).append(picked)
    return list(found.values())


class ImageCache:
    """Keeps the visual tokens of images; the least recently used are evicted first. Thread-safe.

    Args:
        limit: the largest size of the visual tokens in bytes; 0 disables the cache.

    Attributes:
        files: a second cache on disk; ``None`` for none.
        hits: images whose tokens were cached, in memory or in files.
        misses: images that were encoded.
        evictions: images that were removed to make room for others.
        bytes: the current size of the tokens in bytes.
    """

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"bytes of the image cache must be at least 0, got {limit}")
        self.limit = limit
        self.files: ImageCacheFiles | None = None
        self.hits = self.misses = self.evictions = self.bytes = 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def tokens(
        self, vlm: VLM, images: Sequence[CachedImage], features: FeatureCache | None = None
    ) -> list[Float[Tensor, "_m e"]]:
        """Return the visual tokens of each image; only images that are not cached are encoded.

        Args:
            vlm: the model.
            images: the images.
            features: cache of encoder features, for the images that are not cached here.
        """
        with self._lock:
            found = {key: self._kept.get(key) for key, _, _ in images}
            for key, tokens in found.items():
                if tokens is not None:
                    self._kept.move_to_end(key)
        for key in [one for one, tokens in found.items() if tokens is None]:
            stored = None if self.files is None else self.files.get(key)
            if stored is not None:
                found[key] = stored
                self._keep(key, stored)
        new = {key: (pixels, plan) for key, pixels, plan in images if found[key] is None}
        with self._lock:
            self.hits, self.misses = self.hits + len(images) - len(new), self.misses + len(new)
        if new:
            device = next(vlm.parameters()).device
            joined = join_pixels([pixels for pixels, _ in new.values()])
            moved = map_pixels(joined, lambda part: part.to(device))
            encoded = vlm.encode_images(moved, [plan for _, plan in new.values()], features)
            for key, tokens in zip(new, encoded, strict=True):
                found[key] = tokens
                self._keep(key, tokens)
                if self.files is not None:
                    self.files.put(key, tokens)
        return [tokens for key, _, _ in images if (tokens := found[key]) is not None]

    def peek(self, key: bytes) -> Tensor | None:
        """Return the visual tokens of an image if they are cached, without counting a hit or miss."""
        with self._lock:
            return self._kept.get(key)

    def clear(self) -> None:
        """Remove all tokens from memory. Files are kept, but are only used with the same weights."""
        with self._lock:
            self._kept.clear()
            self.bytes = 0
        if self.files is not None:
            self.files.forget_weights()

    @property
    def in_files(self) -> dict[str, int]:
        """The numbers of the files: hits, evictions and bytes."""
        files = self.files
        numbers = (0, 0, 0) if files is None else (files.hits, files.evictions, files.bytes)
        names = ("image_cache_file_hits", "image_cache_file_evictions", "image_cache_file_bytes")
        return dict(zip(names, numbers, strict=True))

    def _keep(self, key: bytes, tokens: Tensor) -> None:
        size = tokens.numel() * tokens.element_size()
        if size > self.limit:
            return
        with self._lock:
            if key not in self._kept:
                self._kept[key] = tokens.clone()  # not a view of a larger batch
                self.bytes += size
            while self.bytes > self.limit:
                _, oldest = self._kept.popitem(last=False)
                self.bytes -= oldest.numel() * oldest.element_size()
                self.evictions += 1
