"""Replaces parts of a loaded model by new ones, for instance to train another encoder."""

import warnings
from collections.abc import Mapping
from math import gcd
from typing import Any

import torch
from torch import nn

from hdvl.checkpoints.native import override
from hdvl.checkpoints.nodes import Node, assemble, marked
from hdvl.model import VLM
from hdvl.overrides import WEIGHTED_GROUPS
from hdvl.protocols import Encoder


def replaced_parts(overrides: Mapping[str, Any]) -> set[str]:
    """Return the parts with weights that ``overrides`` replace: those with a ``_target_``."""
    return {
        part
        for part in WEIGHTED_GROUPS
        if isinstance(overrides.get(part), Mapping) and "_target_" in overrides[part]
    }


def split(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split overrides into those applied when the stored weights are read, and those applied afterwards."""
    new = replaced_parts(overrides)
    early = {
        part: value
        for part, value in overrides.items()
        if part in WEIGHTED_GROUPS and part not in new
    }
    late = {part: value for part, value in overrides.items() if part not in early}
    return early, late


def recompose(
    vlm: VLM,
    node: Node,
    changes: Mapping[str, Any],
    *,
    source: object,
    tiler_follows: bool = False,
) -> VLM:
    """Build the model of ``node`` with ``changes``; parts that are not replaced keep the weights of ``vlm``.

    Bridge and merger are built again for the other parts. They keep their weights if these still fit; if
    the new encoder or language model has another width or grid, they start from new weights. The tiler
    takes the tile size of a new encoder unless ``changes`` name a tiler.

    A warning names the parts that start from new weights.

    Args:
        vlm: the loaded model.
        node: its configuration.
        changes: overrides of ``node``; a part with a ``_target_`` is replaced.
        source: where ``node`` comes from, for error messages.
        tiler_follows: whether a tiler in ``changes`` also takes the encoder's tile size.

    Raises:
        ValueError: the parts do not fit together.
    """
    new = replaced_parts(changes)
    changed = Node(override(node, marked(changes)))

    def build(part: str) -> Any:
        return assemble(changed[part], source=source, where=f"model.{part}")

    encoder = build("encoder") if "encoder" in new else vlm.encoder
    if tiler_follows or ("encoder" in new and "tiler" not in changes):
        changed["tiler"] = following_tiler(changed["tiler"], encoder)
    fresh = VLM(
        tiler=build("tiler"),
        encoder=encoder,
        bridge=build("bridge"),
        merger=build("merger"),
        llm=build("llm") if "llm" in new else vlm.llm,
        template=build("template"),
        encode_chunk=changed.get("encode_chunk"),
        image_token_id=changed.get("image_token_id"),
    )
    for part in ("bridge", "merger"):
        kept = _take_weights(getattr(fresh, part), getattr(vlm, part))
        new = new - {part} if kept else new | {part}
    dtype = next(p.dtype for p in vlm.parameters() if p.is_floating_point())
    for part in new:
        getattr(fresh, part).to(dtype)
    _warn(fresh, new, source)
    return fresh.eval()


def following_tiler(tiler: Node, encoder: Encoder) -> Node:
    """Return the tiler's node for the encoder's tile size; the relative overlap of windows is kept."""
    old, new = tiler.get("tile_size"), encoder.tile_size
    if old is None or old == new:
        return tiler
    follows: dict[str, Any] = {"tile_size": new}
    step = tiler.get("multiple_of")
    if step is not None and new % step:
        patch, rest = divmod(new, encoder.grid[1])
        step = follows["multiple_of"] = gcd(step, new) if rest else patch
    if tiler.get("stride") is not None:
        scaled, step = tiler["stride"] * new // old, step or 1
        follows["stride"] = new if tiler["stride"] == old else max(step, scaled // step * step)
    return Node({**tiler, **follows})


def _take_weights(part: nn.Module, old: nn.Module) -> bool:
    """Give ``part`` the weights of ``old`` if they have the same names and shapes."""
    shapes = {name: value.shape for name, value in part.state_dict().items()}
    state = old.state_dict()
    if shapes != {name: value.shape for name, value in state.items()}:
        return False
    part.load_state_dict(state, assign=True)
    return True


def _warn(vlm: VLM, new: set[str], source: object) -> None:
    weighted = [
        part for part in WEIGHTED_GROUPS if part in new and _has_weights(getattr(vlm, part))
    ]
    if weighted:
        warnings.warn(
            f"new parts in the model of {source}: {', '.join(weighted)} start from the weights that "
            "their own configuration gives, random ones unless it names a file; train before use",
            stacklevel=4,
        )


def _has_weights(part: torch.nn.Module) -> bool:
    return next(part.parameters(), None) is not None
