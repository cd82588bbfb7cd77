"""Do the parts do what they say, and fit each other? Asked before any weight is used."""

import torch
from torch import nn
from torch.func import functional_call

from hdvl.protocols import Bridge, Encoder, Merger


def probe_encoder(encoder: Encoder) -> None:
    """Run one tile through ``encoder`` on ``meta`` and compare with its ``grid`` and ``width``.

    An encoder that got those numbers in this way itself keeps them as ``measured`` (tile size, grid,
    width), and is not run again while it says the same.

    Raises:
        ValueError: it gives another number of patches or another width than it says.
    """
    if not isinstance(encoder, nn.Module):
        raise TypeError(f"encoder must be an nn.Module, got {type(encoder).__name__}")
    size, (rows, cols) = encoder.tile_size, encoder.grid
    if getattr(encoder, "measured", None) == (size, (rows, cols), encoder.width):
        return
    state = {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}
    on_meta = {name: value.to("meta") for name, value in state.items()}
    pixels = torch.empty(1, len(encoder.mean), size, size, dtype=torch.uint8, device="meta")
    was_training = encoder.training
    encoder.eval()
    with torch.no_grad():
        shape = tuple(functional_call(encoder, on_meta, (pixels,)).shape)
    encoder.train(was_training)
    if shape != (1, rows * cols, encoder.width):
        raise ValueError(
            f"{type(encoder).__name__} says grid={rows}x{cols} and width={encoder.width}, but gives "
            f"{shape[1]} tokens of width {shape[2]} for a {size}-px tile; check its grid, prefix tokens "
            "and select_layer"
        )


def check_token_order(bridge: Bridge, merger: Merger) -> None:
    """Refuse a bridge whose tokens are not in raster order before a merger that needs them so.

    Raises:
        ValueError: the bridge has ``raster_order = False`` and the merger no ``any_token_order = True``.
    """
    if getattr(bridge, "raster_order", True) or getattr(merger, "any_token_order", False):
        return
    order = f" with order={bridge.order}" if hasattr(bridge, "order") else ""
    raise ValueError(
        f"bridge {type(bridge).__name__}{order} gives tokens that are not in raster order, which "
        f"merger {type(merger).__name__} would lay out as a wrong image; set bridge.order=v2 or "
        "merger=concat"
    )
