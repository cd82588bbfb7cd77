"""Many tiles through an encoder with the memory of a few."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from hdvl.protocols import Encoder

PATCHES_A_CORE = 2048
"""Patches whose activations the caches of a core still hold (tools/bench_encoder.py)."""


def encode_in_chunks(
    encoder: Encoder, pixels: Shaped[Tensor, "t c h w"], chunk: int | None = None
) -> Float[Tensor, "t n d"]:
    """The features of all tiles, at most ``chunk`` tiles at a time.

    None takes all at once, but in inference mode in float32 on a CPU as many as its caches hold. A
    tile's features do not depend on its neighbours, so the numbers are those of one batch. In
    inference the activations of one chunk are alive at a time, and the features are written straight
    to their place; in training autograd keeps what the backward pass needs of every chunk.

    Raises:
        ValueError: ``chunk`` is less than 1.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"encode_chunk must be at least 1 or null, got {chunk}")
    if chunk is None and torch.is_inference_mode_enabled():
        chunk = cached_tiles(encoder, pixels)
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


def cached_tiles(encoder: Encoder, pixels: Shaped[Tensor, "t c h w"]) -> int | None:
    """How many of the tiles the caches of a CPU's cores hold, at least 1, if they are all that limits it.

    They are in float32; products in bf16 gain more from a large batch, and so do accelerators.
    """
    device = pixels.device.type
    halved = torch.is_autocast_enabled(device) or not is_float32(encoder)
    if device != "cpu" or halved:
        return None
    rows, cols = encoder.grid_for((pixels.shape[3], pixels.shape[2]))
    return max(1, PATCHES_A_CORE * torch.get_num_threads() // (rows * cols))


def is_float32(encoder: Encoder) -> bool:
    weights = encoder.parameters() if isinstance(encoder, nn.Module) else ()
    return all(weight.dtype == torch.float32 for weight in weights)
