"""Functions on the pixels of views, which are grouped into one tensor for each size of view."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from hdvl.protocols import Encoder, Pixels, Size, TilePlan, Tiler


def check_tile_size(tiler: Tiler, encoder: Encoder) -> None:
    """Raise a ``ValueError`` if the tiler cuts tiles of another size than the encoder takes."""
    side = tiler.tile_size
    if side != encoder.tile_size:
        raise ValueError(
            f"tiler.tile_size={side} must equal the encoder's tile_size={encoder.tile_size}; "
            f"set tiler.tile_size={encoder.tile_size} (null follows the encoder) or encoder.tile_size"
        )


def check_views(tiler: Tiler, encoder: Encoder) -> None:
    """Check that the encoder supports the views of the tiler.

    The views of two images are tried: one of the size of a tile, and one of 5 x 3 tiles.

    Raises:
        ValueError: the tile sizes differ, or the encoder does not support the size of a view.
    """
    check_tile_size(tiler, encoder)
    side = tiler.tile_size
    plans = (tiler.plan(side, side), tiler.plan(5 * side, 3 * side))
    for size in dict.fromkeys(size for plan in plans for size in plan.sizes):
        try:
            encoder.grid_for(size)
        except ValueError as error:
            raise ValueError(
                f"the tiler cuts views of {size[0]}x{size[1]} pixels that the encoder does not take: "
                f"{error}; choose tiler=squash, whose views have the size of a tile, or an encoder for views "
                "of any size, such as siglip2_naflex"
            ) from error


def groups(pixels: Pixels) -> tuple[UInt8[Tensor, "_t c _h _w"], ...]:
    """Return the tensors of ``pixels``, one for each size of view."""
    return pixels if isinstance(pixels, tuple) else (pixels,)


def view_count(pixels: Pixels) -> int:
    """Return the number of views in ``pixels``."""
    return sum(len(group) for group in groups(pixels))


def map_pixels(pixels: Pixels, change: Callable[[Tensor], Tensor]) -> Pixels:
    """Apply ``change`` to each tensor of ``pixels``."""
    return tuple(map(change, pixels)) if isinstance(pixels, tuple) else change(pixels)


def size_of(group: UInt8[Tensor, "_t c _h _w"]) -> Size:
    """Return (width, height) of the views of a tensor."""
    return group.shape[3], group.shape[2]


def join_pixels(parts: Sequence[Pixels]) -> Pixels:
    """Concatenate the views of all ``parts``, those of the same size in one tensor.

    Empty tensors are left out, because ``torch.cat`` with an empty tensor changes the memory format.
    """
    by_size: dict[Size, list[Tensor]] = {}
    for part in parts:
        for group in groups(part):
            if len(group):
                by_size.setdefault(size_of(group), []).append(group)
    joined = [torch.cat(same) if len(same) > 1 else same[0] for same in by_size.values()]
    if not joined:
        return parts[0]
    return joined[0] if len(joined) == 1 else tuple(joined)


def split_pixels(pixels: Pixels, plans: Sequence[TilePlan]) -> list[Pixels]:
    """Split the pixels of several images into those of each image, the inverse of :func:`join_pixels`.

    The tensors returned are slices of ``pixels``, not copies.

    Raises:
        ValueError: the number of views of a size differs between ``pixels`` and ``plans``.
    """
    counts_by_image = [Counter(plan.sizes) for plan in plans]
    by_size = {size_of(group): group for group in groups(pixels) if len(group)}
    _check_counts(by_size, counts_by_image)
    start = dict.fromkeys(by_size, 0)
    images: list[Pixels] = []
    for counts in counts_by_image:
        slices = []
        for size, count in counts.items():
            slices.append(by_size[size][start[size] : start[size] + count])
            start[size] += count
        # A plan without views has no size, so its image is an empty tensor of any size.
        images.append(tuple(slices) if len(slices) > 1 else (slices or [groups(pixels)[0][:0]])[0])
    return images


def blank_pixels(plan: TilePlan, device: torch.device | str = "cpu") -> Pixels:
    """Return black views of the sizes of ``plan``."""
    counts = Counter(plan.sizes)
    parts = [
        torch.zeros(count, 3, height, width, dtype=torch.uint8, device=device)
        for (width, height), count in counts.items()
    ]
    return parts[0] if len(parts) == 1 else tuple(parts)


def view_pixels(pixels: Pixels, plan: TilePlan) -> list[UInt8[Tensor, "c _h _w"]]:
    """Return the pixels of each view of one image, in the order of the plan."""
    by_size = {size_of(group): iter(group) for group in groups(pixels)}
    return [next(by_size[size]) for size in plan.sizes]


def _check_counts(by_size: dict[Size, Tensor], counts_by_image: Sequence[dict[Size, int]]) -> None:
    expected: dict[Size, int] = {}
    for counts in counts_by_image:
        for size, count in counts.items():
            expected[size] = expected.get(size, 0) + count
    actual = {size: len(group) for size, group in by_size.items()}
    if actual != expected:
        raise ValueError(
            f"plans ask for {sum(expected.values())} tiles, pixels hold {sum(actual.values())} "
            f"({_format_counts(expected)} against {_format_counts(actual)}); make both with the same "
            "processor"
        )


def _format_counts(counts: dict[Size, int]) -> str:
    parts = [f"{count} of {width}x{height} px" for (width, height), count in counts.items()]
    return ", ".join(parts) or "none"
