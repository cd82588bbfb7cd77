"""Encoder features of the last question's images: a conversation's next turn needs them again."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from hdvl.inference.weights_hash import weights_hash
from hdvl.protocols import EncodeImages


class RecentFeatures:
    """A :class:`~hdvl.protocols.FeatureCache` of the images of the last call alone.

    Features are used again as long as the tiles and the encoder are the same. ``encoded`` counts the
    images that were encoded.
    """

    encoded: int

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder, self.encoded = encoder, 0
        self._state: tuple[Any, ...] = ()
        self._kept: list[tuple[Tensor, Tensor]] = []

    def features(
        self, images: Sequence[UInt8[Tensor, "_t c _h _w"]], encode: EncodeImages
    ) -> list[Float[Tensor, "_t _n d"]]:
        """Features of each image; only images that are new are encoded."""
        state = _state(self.encoder, images[0].device.type)
        kept, self._kept = (self._kept if state == self._state else []), []
        found = [_find(image, kept) for image in images]
        new = [index for index, features in enumerate(found) if features is None]
        own = encode([images[index] for index in new]) if new else []
        for index, features in zip(new, own, strict=True):
            found[index] = features
        self.encoded += len(new)
        known = [features for features in found if features is not None]
        self._state, self._kept = state, list(zip(images, known, strict=True))
        return known

    def clear(self) -> None:
        """Free what is kept."""
        self._state, self._kept = (), []


def _find(image: Tensor, kept: Sequence[tuple[Tensor, Tensor]]) -> Tensor | None:
    return next((features for tiles, features in kept if torch.equal(tiles, image)), None)


def _state(encoder: nn.Module, device: str) -> tuple[Any, ...]:
    """What changes when a weight does, however it was written to, or when the precision does."""
    precision = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    return precision, *weights_hash(encoder)
