"""Vision transformer of Qwen-VL: OpenCLIP's ViT-bigG without a class token, at 448 pixels."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hdvl.encoders.base import PatchEncoder, check_tile
from hdvl.encoders.weights import (
    HUB_FILES,
    find_weight_file,
    load_exactly,
    read_tensors,
    without_prefix,
)
from hdvl.positions import KeptTables, resized

# Patterns of the names of the tensors of ``QwenViT.model`` in published checkpoints.
_BLOCK = r"blocks\.(\d+)\."
_NAMES = (
    (r"patches\.", r"conv1."),
    (r"positions$", r"positional_embedding"),
    (r"norm\.", r"ln_pre."),
    (_BLOCK + r"norm([12])\.", r"transformer.resblocks.\1.ln_\2."),
    (_BLOCK + r"attn\.qkv\.", r"transformer.resblocks.\1.attn.in_proj."),
    (_BLOCK + r"attn\.proj\.", r"transformer.resblocks.\1.attn.out_proj."),
    (_BLOCK + r"mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
    (_BLOCK + r"mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
)
_BRIDGE_PREFIXES = ("attn_pool.", "ln_post.", "proj")
"""Prefixes of the bridge's tensors, which published checkpoints store together with those of the trunk."""


def published_key(own: str) -> str:
    """Return the published name of ``own``, a tensor of ``QwenViT.model``.

    >>> published_key("blocks.3.attn.qkv.bias")
    'transformer.resblocks.3.attn.in_proj.bias'
    """
    for pattern, name in _NAMES:
        key, count = re.subn("^" + pattern, name, own)
        if count:
            return key
    raise ValueError(f"own must be a tensor of QwenViT.model, got {own!r}")


def is_packed(key: str) -> bool:
    """Return whether the published tensor ``key`` holds queries, keys and values grouped by head."""
    return ".attn.in_proj." in key


def repacked(value: Float[Tensor, "rows *rest"], heads: int) -> Float[Tensor, "rows *rest"]:
    """Reorder rows from q, k, v of head 0, then of head 1, ... to all q, all k, all v."""
    return rearrange(
        value, "(head part size) ... -> (part head size) ...", head=heads, part=3
    ).contiguous()


class QwenViT(PatchEncoder):
    """Vision trunk of Qwen-VL with random weights (Bai et al., arXiv 2308.12966).

    The blocks are pre-norm with erf GELU, without class token, layer scale or a norm after the last one.
    The position embeddings are interpolated in float32 to the grid of the tiles, so that the same weights
    support any ``tile_size`` that is a multiple of the patch size.

    Args:
        width: width of the features.
        depth: number of blocks.
        heads: number of attention heads.
        mlp_width: hidden width of the perceptrons.
        patch: side of a patch in pixels.
        image_size: side in pixels of the images that the position embeddings are for.
        tile_size: side of a tile in pixels.
        norm_eps: epsilon of all norms.
        drop_path: rate of stochastic depth in the last block; it increases linearly from 0 in the first.
        mean: mean of the pixels, CLIP's by default.
        std: standard deviation of the pixels, CLIP's by default.

    Raises:
        ValueError: an argument is out of range, or a size is not divisible.
    """

    heads: int

    def __init__(
        self,
        *,
        width: int = 1664,
        depth: int = 48,
        heads: int = 16,
        mlp_width: int = 8192,
        patch: int = 14,
        image_size: int = 224,
        tile_size: int = 448,
        norm_eps: float = 1e-6,
        drop_path: float = 0.0,
        mean: Sequence[float] = (0.48145466, 0.4578275, 0.40821073),
        std: Sequence[float] = (0.26862954, 0.26130258, 0.27577711),
    ) -> None:
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be in 0..1, 1 excluded, got {drop_path}")
        if depth < 1 or heads < 1 or width % heads:
            raise ValueError(
                f"depth must be at least 1 and width a multiple of heads, got depth={depth}, "
                f"width={width}, heads={heads}"
            )
        if image_size % patch:
            raise ValueError(f"image_size must be a multiple of patch={patch}, got {image_size}")
        trunk = _Trunk(width=width, patch=patch, side=image_size // patch, norm_eps=norm_eps)
        trunk.add_blocks(depth, heads=heads, mlp_width=mlp_width, drop_path=drop_path)
        super().__init__(
            model=trunk,
            mean=mean,
            std=std,
            tile_size=check_tile(tile_size, patch, image_size),
            select_layer=-1,
            final_norm=False,
            patch_size=(patch, patch),
        )
        self.heads = heads
        numbers = {"width": width, "depth": depth, "heads": heads, "mlp_width": mlp_width}
        self._infer_sizes("QwenViT", {**numbers, "patch": patch, "image_size": image_size})

    @classmethod
    def from_pretrained(
        cls,
        *,
        weights: str | Path | None = None,
        prefix: str = "transformer.visual.",
        **options: Any,
    ) -> "QwenViT":
        """Build the encoder and load its weights.

        Args:
            weights: a local path or ``hub:owner/name``; ``None`` leaves the weights random.
            prefix: prefix of the encoder's tensors in a complete Qwen-VL checkpoint.
            **options: arguments of the class.

        Raises:
            ValueError: keys are missing, unexpected or of another shape; the message lists them.
        """
        encoder = cls(**options)
        if weights is None:
            return encoder
        path = find_weight_file(weights, HUB_FILES)
        state = {
            key: repacked(value, encoder.heads) if is_packed(key) else value
            for key, value in without_prefix(read_tensors(path), prefix).items()
            if not key.startswith(_BRIDGE_PREFIXES)
        }
        names = {published_key(own): own for own in encoder.model.state_dict()}
        found = {names.get(key, key): value for key, value in state.items()}
        load_exactly(encoder.model, found, known=set(names.values()), source=path)
        return encoder

    def tokens(
        self, pixels: Float[Tensor, "t c h w"]
    ) -> tuple[Float[Tensor, "t n d"], Float[Tensor, "t _p d"]]:
        """Return the patch features of the last block; there are no prefix tokens."""
        patches = self.model(pixels)
        return patches, patches[:, :0]


class _Trunk(nn.Module):
    """Patch embedding with positions, a norm, and blocks of timm, which equal the published ones.

    Blocks of timm order the rows of the fused matrix as all q, all k, all v.
    """

    positions: nn.Parameter
    side: int

    def __init__(self, *, width: int, patch: int, side: int, norm_eps: float) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.positions = nn.Parameter(width**-0.5 * torch.randn(side * side, width))
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.blocks = nn.ModuleList()
        self.side, self.kept = side, KeptTables()

    def add_blocks(self, depth: int, *, heads: int, mlp_width: int, drop_path: float) -> None:
        """Append ``depth`` blocks."""
        from timm.models.vision_transformer import Block

        width, eps = self.norm.normalized_shape[0], self.norm.eps
        self.blocks.extend(
            Block(
                dim=width,
                num_heads=heads,
                mlp_ratio=(mlp_width + 0.5) / width,  # timm rounds the product down
                qkv_bias=True,
                drop_path=drop_path * number / max(1, depth - 1),
                norm_layer=partial(nn.LayerNorm, eps=eps),
            )
            for number in range(depth)
        )

    def forward(self, pixels: Float[Tensor, "t c h w"]) -> Float[Tensor, "t n d"]:
        maps = self.patches(pixels)  # t d y x
        own, grid = (self.side, self.side), (maps.shape[2], maps.shape[3])
        places = self.kept(self.positions, grid, lambda: resized(self.positions, own, grid))
        tokens: Tensor = self.norm(rearrange(maps, "t d y x -> t (y x) d") + places)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens
