"""Many tiles through an encoder with the memory of a few."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from hdvl.protocols import Encoder


def encode_in_chunks(
    encoder: Encoder, pixels: Shaped[Tensor, "t c h w"], chunk: int | None = None
) -> Float[Tensor, "t n d"]:
    """The features of all tiles, at most ``chunk`` tiles at a time; None takes all at once.

    A tile's features do not depend on its neighbours, so the numbers are those of one batch. In
    inference the activations of one chunk are alive at a time, and the features are written
    straight to their place; in training autograd keeps what the backward pass needs of every chunk.

    Raises:
        ValueError: ``chunk`` is less than 1.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"encode_chunk must be at least 1 or null, got {chunk}")
    if chunk is None or len(pixels) <= chunk:
        return encoder(pixels)
    if torch.is_grad_enabled():
        return torch.cat([encoder(part) for part in torch.split(pixels, chunk)])
    first = encoder(pixels[:chunk])
    features = first.new_empty(len(pixels), *first.shape[1:])
    features[:chunk] = first
    del first
    for start in range(chunk, len(pixels), chunk):
        features[start : start + chunk] = encoder(pixels[start : start + chunk])
    return features
