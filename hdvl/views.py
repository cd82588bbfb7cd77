"""Pixels of views of several sizes: one tensor for each size, and which view is where."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from hdvl.protocols import Encoder, Pixels, Size, TilePlan, Tiler


def check_views(tiler: Tiler, encoder: Encoder) -> None:
    """Refuse a tiler whose views the encoder does not take.

    Raises:
        ValueError: the tile sizes differ, or an image of the size of a tile, or of several times that,
            has a view of a size that the encoder does not take.
    """
    side = tiler.tile_size
    if side != encoder.tile_size:
        raise ValueError(
            f"tiler.tile_size={side} must equal the encoder's tile_size={encoder.tile_size}; "
            f"set tiler.tile_size={encoder.tile_size} or encoder.tile_size"
        )
    plans = (tiler.plan(side, side), tiler.plan(5 * side, 3 * side))
    for size in dict.fromkeys(size for plan in plans for size in plan.sizes):
        try:
            encoder.grid_for(size)
        except ValueError as error:
            raise ValueError(
                f"the tiler cuts views of {size[0]}x{size[1]} pixels that the encoder does not take: "
                f"{error}"
            ) from error


def groups(pixels: Pixels) -> tuple[UInt8[Tensor, "_t c _h _w"], ...]:
    """The tensors of ``pixels``, one for each size."""
    return pixels if isinstance(pixels, tuple) else (pixels,)


def view_count(pixels: Pixels) -> int:
    """How many views ``pixels`` hold."""
    return sum(len(group) for group in groups(pixels))


def map_pixels(pixels: Pixels, change: Callable[[Tensor], Tensor]) -> Pixels:
    """``change`` applied to each tensor of ``pixels``."""
    return tuple(map(change, pixels)) if isinstance(pixels, tuple) else change(pixels)


def size_of(group: UInt8[Tensor, "_t c _h _w"]) -> Size:
    """(width, height) of the views of a tensor."""
    return group.shape[3], group.shape[2]


def join_pixels(parts: Sequence[Pixels]) -> Pixels:
    """The views of all ``parts`` behind each other: those of one size in one tensor.

    Tensors keep the memory format they have: beside empty tensors ``torch.cat`` would change it.
    """
    found: dict[Size, list[Tensor]] = {}
    for part in parts:
        for group in groups(part):
            if len(group):
                found.setdefault(size_of(group), []).append(group)
    joined = [torch.cat(some) if len(some) > 1 else some[0] for some in found.values()]
    if not joined:
        return parts[0]
    return joined[0] if len(joined) == 1 else tuple(joined)


def split_pixels(pixels: Pixels, plans: Sequence[TilePlan]) -> list[Pixels]:
    """The pixels of each image of ``plans``, without copying them: the inverse of :func:`join_pixels`.

    Raises:
        ValueError: ``pixels`` hold other views than the plans ask for.
    """
    wanted = [dict.fromkeys(plan.sizes, 0) for plan in plans]
    for counts, plan in zip(wanted, plans, strict=True):
        for size in plan.sizes:
            counts[size] += 1
    given = {size_of(group): group for group in groups(pixels) if len(group)}
    _check(given, wanted)
    start = dict.fromkeys(given, 0)
    images: list[Pixels] = []
    for counts in wanted:
        own = []
        for size, count in counts.items():
            own.append(given[size][start[size] : start[size] + count])
            start[size] += count
        # Plans without any view have no size; an empty tensor of any size stands for them.
        images.append(tuple(own) if len(own) > 1 else (own or [groups(pixels)[0][:0]])[0])
    return images


def blank_pixels(plan: TilePlan, device: torch.device | str = "cpu") -> Pixels:
    """Black views of the sizes of ``plan``."""
    counts = dict.fromkeys(plan.sizes, 0)
    for size in plan.sizes:
        counts[size] += 1
    parts = [
        torch.zeros(count, 3, height, width, dtype=torch.uint8, device=device)
        for (width, height), count in counts.items()
    ]
    return parts[0] if len(parts) == 1 else tuple(parts)


def view_pixels(pixels: Pixels, plan: TilePlan) -> list[UInt8[Tensor, "c _h _w"]]:
    """The pixels of each view of one image, in the order of the plan."""
    own = {size_of(group): iter(group) for group in groups(pixels)}
    return [next(own[size]) for size in plan.sizes]


def _check(given: dict[Size, Tensor], wanted: Sequence[dict[Size, int]]) -> None:
    total: dict[Size, int] = {}
    for counts in wanted:
        for size, count in counts.items():
            total[size] = total.get(size, 0) + count
    held = {size: len(group) for size, group in given.items()}
    if held != total:
        raise ValueError(
            f"plans ask for {sum(total.values())} tiles, pixels hold {sum(held.values())} "
            f"({_said(total)} against {_said(held)}); make both with the same processor"
        )


def _said(counts: dict[Size, int]) -> str:
    parts = [f"{count} of {width}x{height} px" for (width, height), count in counts.items()]
    return ", ".join(parts) or "none"
