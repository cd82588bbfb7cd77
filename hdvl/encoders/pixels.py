"""Normalisation of uint8 pixels on the device of the encoder."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn


def normalise(
    pixels: Shaped[Tensor, "t c h w"],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> Float[Tensor, "t c h w"]:
    """Return ``(pixels / 255 - mean) / std`` in ``dtype`` for uint8 pixels; float pixels are only cast.

    The computation is done in float32 (or wider) and rounded once at the end.

    Raises:
        ValueError: the number of channels does not match ``mean`` and ``std``, or the pixels are integers
            of another type.
    """
    if not pixels.shape[1] == len(mean) == len(std):
        raise ValueError(
            f"pixels must have one channel for each mean and std, got channels={pixels.shape[1]}, "
            f"len(mean)={len(mean)}, len(std)={len(std)}"
        )
    if pixels.is_floating_point():
        return pixels.to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    centre, scale = (
        torch.tensor(numbers, dtype=wide, device=pixels.device)[:, None, None]
        for numbers in (mean, std)
    )
    # In place, because allocating memory for each step would take as long as the computation.
    return widened(pixels, wide).div_(255).sub_(centre).div_(scale).to(dtype)


def widened(pixels: Shaped[Tensor, "t c h w"], dtype: torch.dtype) -> Float[Tensor, "t c h w"]:
    """Return uint8 pixels as a new float tensor with the same values (0 to 255) in any memory format."""
    if pixels.dtype != torch.uint8:
        raise ValueError(f"pixels must be uint8 or float, got dtype={pixels.dtype}; use a tiler's")
    return pixels.to(dtype, memory_format=torch.contiguous_format)


class Normalise(nn.Module):
    """Module that applies :func:`normalise` with fixed ``mean`` and ``std``.

    It holds no tensors, so it adds nothing to the state dict and works on ``meta``.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ValueError(
                f"mean and std must be equally long and std positive, got mean={list(mean)}, "
                f"std={list(std)}"
            )
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(
        self, pixels: Shaped[Tensor, "t c h w"], dtype: torch.dtype
    ) -> Float[Tensor, "t c h w"]:
        """Return pixels normalised for the first layer."""
        return normalise(pixels, self.mean, self.std, dtype)
