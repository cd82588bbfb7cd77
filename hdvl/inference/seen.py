"""The pictures of the last question, encoded: a conversation's next turn shows them again."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from hdvl.model import VLM, Encode, encode_each


class SeenPictures:
    """Features of the last question's pictures, as long as their tiles and the encoder are the same.

    No more is held than that question needed. ``encoded`` counts the pictures that were encoded.
    """

    encoded: int

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder, self.encoded = encoder, 0
        self._state: tuple[Any, ...] = ()
        self._kept: list[tuple[Tensor, Tensor]] = []

    def __call__(
        self, pixels: UInt8[Tensor, "t c h w"], counts: Sequence[int], encode: Encode
    ) -> Float[Tensor, "t n d"]:
        """Features of the pictures of ``counts`` tiles; only new ones are encoded."""
        state = _state(self.encoder, pixels.device.type)
        kept, self._kept = (self._kept if state == self._state else []), []
        pictures = torch.split(pixels, list(counts))
        found = [_find(picture, kept) for picture in pictures]
        new = [place for place, features in enumerate(found) if features is None]
        own = encode_each(encode, [pictures[place] for place in new])
        for place, features in zip(new, own, strict=True):
            found[place] = features
        self.encoded += len(new)
        known = [features for features in found if features is not None]
        self._state, self._kept = state, list(zip(pictures, known, strict=True))
        return torch.cat(known)

    @contextmanager
    def shown_to(self, vlm: VLM) -> Iterator[None]:
        """Inside, ``vlm`` asks here first, unless it has another memory."""
        if vlm.recall is not None:
            yield
            return
        vlm.recall = self
        try:
            yield
        finally:
            vlm.recall = None


def _find(picture: Tensor, kept: Sequence[tuple[Tensor, Tensor]]) -> Tensor | None:
    return next((features for tiles, features in kept if torch.equal(tiles, picture)), None)


def _state(encoder: nn.Module, device: str) -> tuple[Any, ...]:
    """What changes when a weight is written to, replaced or moved, or the precision is another."""
    precision = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    tensors = (*encoder.parameters(), *encoder.buffers())
    # Tensors made in inference mode have no count of writes; outside of it none can be written to.
    versions = [-1 if tensor.is_inference() else tensor._version for tensor in tensors]
    return precision, *(tensor.data_ptr() for tensor in tensors), *versions
