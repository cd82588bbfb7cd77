"""Normalisation folded into the patch embedding: uint8 pixels go straight into the convolution."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from hdvl.encoders.pixels import Normalise, normalise, widened

CENTRE = 128  # uint8 - 128 is exact in bf16; uint8 / 255 - mean is not


class Centre(Normalise):
    """Pixels minus 128, in steps of 1/255: what a :class:`FoldedConv` takes."""

    def forward(
        self, pixels: Shaped[Tensor, "t c h w"], dtype: torch.dtype
    ) -> Float[Tensor, "t c h w"]:
        """Centred pixels; float pixels (normalised) are brought back to that scale."""
        if not pixels.is_floating_point():
            return widened(pixels, dtype).sub_(CENTRE)
        wide = normalise(pixels, self.mean, self.std, torch.promote_types(dtype, torch.float32))
        scale, shift = _affine(self.mean, self.std, wide)
        return ((wide - shift[:, None, None]) / scale[:, None, None]).to(dtype)


class FoldedConv(nn.Conv2d):
    """A convolution on centred pixels that equals ``conv`` on normalised ones.

    It holds the very parameters of ``conv`` under the same names, and scales them in each pass (a
    thousandth of the convolution's own work): state dict, optimizer and gradients stay right.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(self, *, conv: nn.Conv2d, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]  # torch types it wider than it accepts
            conv.stride,  # type: ignore[arg-type]
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, input: Float[Tensor, "t c h w"]) -> Float[Tensor, "t d r c2"]:
        """Patch embeddings of pixels as :class:`Centre` gives them."""
        wide = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        scale, shift = _affine(self.mean, self.std, wide)
        bias = torch.einsum("dcyx,c->d", wide, shift)
        bias = bias if self.bias is None else bias + self.bias
        # In float32 even in a bf16 model: scaled weights rounded to bf16 a second time would err
        # more than normalised pixels do, and the patch embedding is a hundredth of the work.
        weight = wide * scale[:, None, None]
        maps = nn.functional.conv2d(input.to(wide.dtype), weight, bias, self.stride)
        return maps.to(input.dtype)


def fold_normalisation(encoder: nn.Module) -> nn.Module:
    """Let ``encoder`` take uint8 pixels without normalising them first; gives ``encoder`` itself.

    Works on every encoder that has ``pixels: Normalise`` and one unpadded convolution on the
    image (all patch embeddings), inside a ``FusedEncoder`` too. The features are the same: exact
    in float32 but for rounding, in bf16 with no more error than without folding.

    Raises:
        ValueError: no such convolution, or it pads with zeros, which folding would move.
    """
    owners = [
        module for module in encoder.modules() if type(getattr(module, "pixels", None)) is Normalise
    ]
    if not owners:
        raise ValueError(
            f"encoder must normalise its pixels to fold that, got {type(encoder).__name__}"
        )
    for owner in owners:
        _fold(owner)
    return encoder


def _fold(encoder: Any) -> None:
    mean, std = encoder.pixels.mean, encoder.pixels.std
    found = [
        (name, module)
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == len(mean)
    ]
    if len(found) != 1 or _pads(found[0][1]):
        raise ValueError(
            "folding needs one convolution on the image, without padding, got "
            f"{[f'{name} padding={conv.padding}' for name, conv in found]}; leave it unfolded"
        )
    name, conv = found[0]
    parent, _, leaf = name.rpartition(".")
    setattr(encoder.get_submodule(parent), leaf, FoldedConv(conv=conv, mean=mean, std=std))
    encoder.pixels = Centre(mean=mean, std=std)


def _pads(conv: nn.Conv2d) -> bool:
    return conv.padding not in ((0, 0), "valid") or conv.groups != 1 or conv.dilation != (1, 1)


def _affine(
    mean: Sequence[float], std: Sequence[float], like: Tensor
) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """``scale`` and ``shift`` with normalised = scale * centred + shift."""
    centre, spread = (like.new_tensor(numbers) for numbers in (mean, std))
    return 1 / (255 * spread), (CENTRE / 255 - centre) / spread
