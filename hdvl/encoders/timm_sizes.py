"""timm's vision transformers at sizes that they were not built for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def patch_size(model: Any) -> tuple[int, int] | None:
    """(rows, columns) of pixels of a patch; None for models of feature maps."""
    if getattr(model, "num_prefix_tokens", None) is None:
        return None
    embedding: Any = getattr(model, "patch_embed", None) or getattr(model, "embeds", None)
    if hasattr(embedding, "feat_ratio"):  # of convolutions in front of the patches, too
        size = embedding.feat_ratio(as_scalar=False)
    else:
        size = getattr(embedding, "patch_size", None)
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (size[0], size[1])


@contextmanager
def at_size(model: Any, height: int, width: int) -> Iterator[None]:
    """Inside, ``model`` takes images of this size as timm's ``dynamic_img_size=True`` lets it.

    That option given at the build would also drop the table of rotary positions, and compute it in each
    forward pass from frequencies that a cast to bf16 rounds. So images of the model's own size are
    encoded as ever, bit for bit.
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
