"""Activation checkpointing: blocks store only their inputs, and are computed again in the backward pass.

(Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174.) It works without reentry, so that inputs
need no gradient, and parts may be frozen or have adapters.
"""

from collections.abc import Sequence
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from hdvl.compat.torch import BatchNorm
from hdvl.training.blocks import blocks

RECOMPUTED_PARTS = ("encoder", "llm")


def recompute(vlm: nn.Module, parts: Sequence[str]) -> list[nn.Module]:
    """Enable activation checkpointing for the blocks of ``parts``, and return them. See :func:`keep`.

    Raises:
        ValueError: a part is unknown, has no blocks, or has batch norms that are trained.
    """
    found: list[nn.Module] = []
    for part in parts:
        if part not in RECOMPUTED_PARTS:
            raise ValueError(
                f"callbacks.recompute.parts must be of {', '.join(RECOMPUTED_PARTS)}, got {part}"
            )
        own = blocks(vlm.get_submodule(part))
        norms = [n for block in own for n in block.modules() if isinstance(n, BatchNorm)]
        if not own or any(p.requires_grad for norm in norms for p in norm.parameters()):
            what = "batch norms that would count twice" if own else "no list of blocks"
            raise ValueError(f"callbacks.recompute.parts: {part} has {what}; leave it out")
        found += own
    for block in found:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return found


def recomputed(vlm: nn.Module) -> list[nn.Module]:
    """Return the blocks that :func:`recompute` changed."""
    return [module for module in vlm.modules() if isinstance(vars(module).get("forward"), partial)]


def keep(blocks: Sequence[nn.Module]) -> None:
    """Undo :func:`recompute`."""
    for block in blocks:
        del block.forward
