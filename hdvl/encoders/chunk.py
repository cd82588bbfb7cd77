"""Encoding of many tiles in chunks, which limits the memory for activations."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from hdvl.protocols import Encoder

PATCHES_PER_CORE = 2048
"""Number of patches whose activations fit into the caches of one core (tools/bench_encoder.py)."""


def encode_in_chunks(
    encoder: Encoder, pixels: Shaped[Tensor, "t c h w"], chunk: int | None = None
) -> Float[Tensor, "t n d"]:
    """Encode tiles, at most ``chunk`` of them at a time.

    The result equals that of a single batch, because the features of a tile do not depend on other tiles.
    In inference mode only the activations of one chunk are in memory. In training, autograd keeps the
    activations of all chunks.

    Args:
        encoder: the encoder.
        pixels: the tiles (t, c, h, w).
        chunk: the most tiles at a time. ``None`` for all tiles, except for inference in float32 on a CPU,
            which is fastest with as many tiles as fit into the caches.

    Raises:
        ValueError: ``chunk`` is below 1.
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
    """Return how many tiles fit into the caches of the CPU, at least 1.

    Returns ``None`` where this does not matter: matrix products in bf16 and accelerators gain more from
    a large batch.
    """
    device = pixels.device.type
    halved = torch.is_autocast_enabled(device) or not is_float32(encoder)
    if device != "cpu" or halved:
        return None
    rows, cols = encoder.grid_for((pixels.shape[3], pixels.shape[2]))
    return max(1, PATCHES_PER_CORE * torch.get_num_threads() // (rows * cols))


def is_float32(encoder: Encoder) -> bool:
    weights = encoder.parameters() if isinstance(encoder, nn.Module) else ()
    return all(weight.dtype == torch.float32 for weight in weights)
