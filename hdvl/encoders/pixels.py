"""Pixels on their way into an encoder: uint8 until here, normalised beside the encoder."""

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
    """``(pixels / 255 - mean) / std`` of uint8 pixels, in ``dtype``; float pixels only change type.

    The arithmetic is done in float32 (or wider) and rounded once: bf16 encoders lose nothing.

    Raises:
        ValueError: channels do not match ``mean`` and ``std``, or the pixels are other integers.
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
    # In place: a fresh page for each step would cost as much as the arithmetic.
    return widened(pixels, wide).div_(255).sub_(centre).div_(scale).to(dtype)


def widened(pixels: Shaped[Tensor, "t c h w"], dtype: torch.dtype) -> Float[Tensor, "t c h w"]:
    """uint8 pixels as a fresh float tensor with the same values, 0 to 255, whatever memory they lie in."""
    if pixels.dtype != torch.uint8:
        raise ValueError(f"pixels must be uint8 or float, got dtype={pixels.dtype}; use a tiler's")
    return pixels.to(dtype, memory_format=torch.contiguous_format)


class Normalise(nn.Module):
    """:func:`normalise` with its numbers: what an encoder applies to its pixels.

    Holds no tensors, so it leaves no trace in a state dict and survives ``meta``.
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
        """Pixels as the first layer takes them."""
        return normalise(pixels, self.mean, self.std, dtype)
