"""Checks that the parts of a model meet their protocols and fit together."""

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.func import functional_call

from hdvl.encoders.repeated_blocks import skip_repeated_blocks
from hdvl.keys import arguments_of, similar
from hdvl.protocols import Bridge, Encoder, Grid, Merger, Size, TilePlan, Tiler
from hdvl.tilers.base import Cutter, with_encoder
from hdvl.views import check_tile_size, check_views


def check_members(part: object, protocol: type, name: str) -> None:
    """Check that ``part`` has the members of its protocol.

    Raises:
        ValueError: it lacks some; the message names them.
    """
    expected = (key for base in protocol.__mro__ for key in vars(base) if not key.startswith("_"))
    missing = [key for key in dict.fromkeys(expected) if not hasattr(part, key)]
    if missing:
        raise ValueError(
            f"{name} {type(part).__name__} must have {' and '.join(missing)}; add what is missing as "
            f"hdvl.protocols.{protocol.__name__} describes"
        )


def from_factory(name: str, factory: Callable[..., Any], **arguments: Any) -> Any:
    """Return what ``factory`` of the part ``name`` makes of ``arguments``.

    Raises:
        ValueError: it does not take one of them, or needs another.
    """
    if isinstance(factory, partial):
        _check_options(name, factory, arguments)
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise ValueError(
            f"the {name}'s factory must take {', '.join(arguments)}, as "
            f"hdvl.protocols.{name.capitalize()}Factory describes: {error}"
        ) from error
    return factory(**arguments)


def _check_options(name: str, factory: "partial[Any]", arguments: Collection[str]) -> None:
    """Check that the class of a part takes the options of its node.

    Raises:
        ValueError: it does not take one of them; the message names similar ones.
    """
    known = arguments_of(factory.func)
    if known is None:
        return
    options = [key for key in known if key not in arguments]
    called = getattr(factory.func, "__name__", str(factory.func))
    for key in factory.keywords:
        if key not in known:
            raise ValueError(
                f"{name}.{key} must be an argument of {called}, {key} is not{similar(key, options)}"
            )


def probe_bridge(bridge: Bridge, encoder: Encoder, width: int) -> None:
    """Check the shape of a bridge's tokens for one tile, on the ``meta`` device.

    Args:
        bridge: the bridge.
        encoder: the encoder whose features it is given.
        width: the width of the LLM's embeddings.

    Raises:
        TypeError: ``bridge`` is not an ``nn.Module``.
        ValueError: the bridge does not take the features, or the number or the width of its tokens is
            wrong.
    """
    if not isinstance(bridge, nn.Module):
        raise TypeError(f"bridge must be an nn.Module, got {type(bridge).__name__}")
    name, (rows, cols) = f"bridge {type(bridge).__name__}", bridge.grid_for(encoder.grid)
    kinds = (value.dtype for value in _tensors(bridge) if value.is_floating_point())
    given = (1, encoder.grid[0] * encoder.grid[1], encoder.width)
    features = torch.empty(given, dtype=next(kinds, torch.float32), device="meta")
    try:
        shape = tuple(_on_meta(bridge, features).shape)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{name} must take the features of a tile, of shape {given}: {reason}"
        ) from error
    if shape[-1:] != (width,):
        raise ValueError(
            f"{name} must return width {width}, that of the LLM's embeddings (out_width), got "
            f"{shape[-1] if shape else 'a number'}; check the output of its forward"
        )
    if shape != (1, rows * cols, width):
        raise ValueError(
            f"{name} must return {rows * cols} tokens of a tile, as its grid_for says ({rows} x {cols}), got "
            f"the shape {shape}; check its grid_for and its forward"
        )


def _on_meta(part: nn.Module, values: Tensor) -> Tensor:
    """Return the output of ``part`` for ``values`` on the ``meta`` device, in evaluation mode."""
    state = {**dict(part.named_parameters()), **dict(part.named_buffers())}
    on_meta = {name: value.to("meta") for name, value in state.items()}
    was_training = part.training
    part.eval()
    try:
        with torch.no_grad():
            out: Tensor = functional_call(part, on_meta, (values,))
    finally:
        part.train(was_training)
    return out


def probe_encoder(encoder: Encoder) -> None:
    """Check the shape and the order of an encoder's features.

    The shape is that of one tile on the ``meta`` device. An encoder that has measured it when it was
    constructed keeps (tile size, grid, width) as ``measured``, and is not run again unless one of them
    has changed. The order is checked by :func:`check_places`, unless the weights are on ``meta``; the
    parts of a fused encoder are checked one by one.

    Raises:
        TypeError: ``encoder`` is not an ``nn.Module``.
        ValueError: the number or the width of the features differs from the encoder's ``grid`` and
            ``width``, or the features are not in raster order.
    """
    if not isinstance(encoder, nn.Module):
        raise TypeError(f"encoder must be an nn.Module, got {type(encoder).__name__}")
    _check_shape(encoder)
    for part in encoder.modules():
        tokens = hasattr(part, "grid_for") and not getattr(part, "from_maps", False)
        if tokens and not any(tensor.is_meta for tensor in _tensors(part)):
            check_places(part)


def _check_shape(encoder: Any) -> None:
    size, (rows, cols) = encoder.tile_size, encoder.grid
    if getattr(encoder, "measured", None) == (size, (rows, cols), encoder.width):
        return
    pixels = torch.empty(1, len(encoder.mean), size, size, dtype=torch.uint8, device="meta")
    shape = tuple(_on_meta(encoder, pixels).shape)
    if shape != (1, rows * cols, encoder.width):
        raise ValueError(
            f"{type(encoder).__name__} says grid={rows}x{cols} and width={encoder.width}, but gives "
            f"{shape[1]} tokens of width {shape[2]} for a {size}-px tile; check its grid, prefix tokens "
            "and select_layer"
        )


def check_places(encoder: Any) -> None:
    """Check that the features of an encoder are in raster order.

    Single patches of an image of noise are changed, and each change must move the feature of its own patch
    most. This is cheap for large encoders too: of equal blocks only the first is run, and the image is of
    2 x 3 patches if the encoder supports that size.

    Raises:
        ValueError: at least half of the changes move the feature of another patch most.
    """
    size = _small(encoder)
    rows, cols = encoder.grid_for(size)
    cells = [
        y * cols + x
        for y in range(max(0, rows // 2 - 1), min(rows, rows // 2 + 1))
        for x in range(max(0, cols // 2 - 1), min(cols, cols // 2 + 2))
    ]
    images = _changed(len(encoder.mean), size, (rows, cols), cells)
    device = next((tensor.device for tensor in _tensors(encoder)), torch.device("cpu"))
    was_training = encoder.training
    encoder.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]), skip_repeated_blocks(encoder):
        features = encoder(images.to(device)).float()
    encoder.train(was_training)
    changes = (features[1:] - features[:1]).norm(dim=2)[:, cells]  # by patch and place
    # Some features react more than others to every change, so changes are compared with their mean.
    strongest = (changes / changes.mean(dim=0).clamp(min=1e-12)).argmax(dim=1).tolist()
    seen = [cells[place] for place in strongest]
    if sum(a == b for a, b in zip(seen, cells, strict=True)) * 2 <= len(cells) > 1:
        raise ValueError(
            f"encoder {_name(encoder)} must give the features of patches in raster order, but changes of "
            f"patches {cells} of {rows} x {cols} are seen most in features {seen}; it reorders its tokens, "
            "or prefix tokens are among them"
        )


def _changed(
    channels: int, size: Size, grid: Grid, cells: Sequence[int]
) -> UInt8[Tensor, "t c h w"]:
    """Return an image of noise, and for each of ``cells`` a copy of it with that patch changed."""
    noise = torch.randint(
        0,
        256,
        (1, channels, size[1], size[0]),
        generator=torch.Generator().manual_seed(0),
        device="cpu",
    )
    images = noise.to(torch.uint8).repeat(1 + len(cells), 1, 1, 1)
    down, across = size[1] / grid[0], size[0] / grid[1]
    for image, cell in zip(images[1:], cells, strict=True):
        y, x = divmod(cell, grid[1])
        rows = slice(int(y * down), int((y + 1) * down))
        image[:, rows, int(x * across) : int((x + 1) * across)].bitwise_xor_(128)
    return images


def _small(encoder: Any) -> Size:
    """Return the size of 2 x 3 patches if ``encoder`` supports it, otherwise the size of a tile."""
    rows, cols = encoder.grid
    small = 3 * (encoder.tile_size // cols), 2 * (encoder.tile_size // rows)
    try:
        taken = tuple(encoder.grid_for(small)) == (2, 3)
    except ValueError:
        taken = False
    return small if taken else (encoder.tile_size, encoder.tile_size)


def _name(encoder: Any) -> str:
    return str(getattr(getattr(encoder, "sizes", None), "name", type(encoder).__name__))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def check_token_order(bridge: Bridge, merger: Merger) -> None:
    """Check that the order of the bridge's tokens is one that the merger supports.

    Raises:
        ValueError: the bridge has ``raster_order = False``, and the merger does not have
            ``any_token_order = True``.
    """
    if getattr(bridge, "raster_order", True) or getattr(merger, "any_token_order", False):
        return
    order = f" with order={bridge.order}" if hasattr(bridge, "order") else ""
    raise ValueError(
        f"bridge {type(bridge).__name__}{order} gives tokens that are not in raster order, which "
        f"merger {type(merger).__name__} would lay out as a wrong image; set bridge.order=v2 or "
        "merger=concat"
    )


def fitted_tiler(tiler: Tiler, encoder: Encoder, bridge: Bridge) -> Tiler:
    """Return ``tiler`` with the sizes and colours that it takes from the encoder and the bridge.

    Raises:
        ValueError: the encoder does not support the views of the tiler.
    """
    if isinstance(tiler, Cutter):
        if not tiler.follows_encoder:
            check_tile_size(tiler, encoder)
        side, patches = encoder.tile_size, encoder.grid[1]
        patch = side // patches if side % patches == 0 else None
        tiler = tiler.sized(side, patch, _merged_patches(bridge))
    check_views(tiler, encoder)
    return with_encoder(tiler, encoder.mean)


def _merged_patches(bridge: Bridge) -> int:
    """Return the smallest n for which the bridge takes every grid whose sides are multiples of n."""
    for number in range(1, 9):
        try:
            for rows, cols in ((1, 2), (3, 5)):
                bridge.grid_for((rows * number, cols * number))
        except ValueError:
            continue
        return number
    return 1


def trial_plans(tiler: Tiler) -> list[TilePlan]:
    """Return the plans of a small, a large and a narrow image, and of one without its blank window."""
    side = tiler.tile_size
    sizes = ((side, side), (5 * side, 3 * side), (3 * side + 7, side // 2 + 1))
    plans = [tiler.plan(width, height) for width, height in sizes]
    largest = max(plans, key=lambda plan: len(plan.windows))
    if getattr(tiler, "skip_blank", False) and len(largest.windows) > 1:
        plans.append(largest.subset(range(1, len(largest.windows))))
    return plans


def check_layouts(plans: Sequence[TilePlan], merger: Merger) -> None:
    """Check that the merger lays out images that are cut as in ``plans`` (:func:`trial_plans`).

    Raises:
        ValueError: it does not, or it needs all windows and the tiler leaves out blank ones.
    """
    for plan in plans:
        try:
            merger.token_count(plan)
        except ValueError as error:
            if len(plan.windows) == plan.rows * plan.cols:
                raise
            raise ValueError(
                f"tiler.skip_blank=true leaves out windows, and merger {type(merger).__name__} needs all of "
                f"them ({error}); set tiler.skip_blank=false or merger=concat"
            ) from error
