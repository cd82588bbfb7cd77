"""Vision transformers of timm for images of other sizes than they were built for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def patch_size(model: Any) -> tuple[int, int] | None:
    """Return (rows, columns) of pixels of a patch; ``None`` for models of feature maps."""
    if getattr(model, "num_prefix_tokens", None) is None:
        return None
    embedding: Any = getattr(model, "patch_embed", None) or getattr(model, "embeds", None)
    if hasattr(
        embedding, "feat_ratio"
    ):  # also defined by embeddings with convolutions before the patches
        size = embedding.feat_ratio(as_scalar=False)
    else:
        size = getattr(embedding, "patch_size", None)
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (size[0], size[1])


@contextmanager
def at_size(model: Any, height: int, width: int) -> Iterator[None]:
    """Context in which ``model`` supports images of this size, as with ``dynamic_img_size=True`` of timm.

    That option is not set when the model is built, because the model would then compute its rotary
    positions in each forward pass, from frequencies that a cast to bf16 has rounded. Images of the
    model's own size are therefore encoded without any change.
    """
    embedding: Any = getattr(model, "patch_embed", None)
    rope: Any = getattr(model, "rope", None)
    fixed = getattr(model, "dynamic_img_size", None) is False and hasattr(embedding, "img_size")
    if not fixed or tuple(embedding.img_size) == (height, width):
        yield
        return
    from timm.layers.format import Format

    kept = [(owner, dict(vars(owner))) for owner in (model, embedding, rope) if owner is not None]
    tables = {} if rope is None else dict(rope.named_buffers(recurse=False))
    model.dynamic_img_size = True
    embedding.flatten, embedding.strict_img_size, embedding.output_fmt = False, False, Format.NHWC
    try:
        if getattr(rope, "feat_shape", None) is not None and hasattr(rope, "update_feat_shape"):
            down, across = embedding.feat_ratio(as_scalar=False)
            with torch.inference_mode(False), torch.no_grad():
                rope.update_feat_shape([height // down, width // across])
        yield
    finally:
        for owner, attributes in kept:
            vars(owner).update(attributes)
        for name, table in tables.items():
            setattr(rope, name, table)
