"""InternViT, the vision encoder of InternVL, from 300M to 6B parameters."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hdvl.encoders.base import PatchEncoder, check_layer, check_tile
from hdvl.encoders.weights import (
    HUB_FILES,
    find_weight_file,
    load_exactly,
    read_tensors,
    without_prefix,
)
from hdvl.positions import KeptTables, resized

# Names of the tensors of ``InternViT.model`` in published checkpoints; the first matching pattern applies.
_BLOCK = r"encoder\.layer\.(\d+)\."
_NAMES = (
    (r"embeddings\.cls_token", r"embeddings.class_embedding"),
    (r"embeddings\.position_embeddings", r"embeddings.position_embedding"),
    (r"embeddings\.patch_embeddings\.projection\.", r"embeddings.patch_embedding."),
    (_BLOCK + r"attention\.([qk])_norm\.", r"encoder.layers.\1.attn.\2_norm."),
    (_BLOCK + r"attention\.projection_layer\.", r"encoder.layers.\1.attn.proj."),
    (_BLOCK + r"attention\.[qkv]_proj\.", r"encoder.layers.\1.attn.qkv."),
    (_BLOCK + r"layernorm_before\.", r"encoder.layers.\1.norm1."),
    (_BLOCK + r"layernorm_after\.", r"encoder.layers.\1.norm2."),
    (_BLOCK + r"lambda_([12])", r"encoder.layers.\1.ls\2"),
    (_BLOCK + r"mlp\.", r"encoder.layers.\1.mlp."),
)
_FUSED = re.compile(r"\.([qkv])_proj\.")


def published_key(own: str) -> tuple[str, int | None]:
    """Return the published name of ``own``, a tensor of ``InternViT.model``.

    The second value is the index of the third (0, 1 or 2) of the rows of a fused ``attn.qkv``, otherwise
    ``None``.

    >>> published_key("encoder.layer.3.lambda_1")
    ('encoder.layers.3.ls1', None)
    >>> published_key("encoder.layer.3.attention.k_proj.weight")
    ('encoder.layers.3.attn.qkv.weight', 1)
    """
    for pattern, name in _NAMES:
        key, count = re.subn("^" + pattern, name, own)
        if count:
            fused = _FUSED.search(own)
            return key, None if fused is None else "qkv".index(fused[1])
    raise ValueError(f"own must be a tensor of InternViT.model, got {own!r}")


def published_block(key: str) -> int | None:
    """Return the index of the block that a published ``key`` belongs to; ``None`` for other tensors."""
    found = re.match(r"encoder\.layers\.(\d+)\.", key)
    return None if found is None else int(found[1])


class InternViT(PatchEncoder):
    """InternViT with random weights (Chen et al., arXiv 2312.14238; 6B-448px-V1-2 by default).

    The blocks are pre-norm with layer scale, without a norm after the last one. The class token is
    dropped, and blocks after ``select_layer`` are not built.

    The blocks are those of ``internvl_vision`` in transformers, with two additions: for a ``tile_size``
    other than ``image_size`` the position embeddings are interpolated in float32 for weights of any type,
    and there is stochastic depth (``drop_path``) for training.

    Args:
        width: width of the features.
        depth: number of blocks of the complete model.
        heads: number of attention heads.
        mlp_width: hidden width of the perceptrons.
        patch: side of a patch in pixels.
        image_size: side in pixels of the images that the position embeddings are for.
        tile_size: side of a tile in pixels; ``image_size`` if ``None``.
        select_layer: the block whose output is used, counted from the end. InternVL 1.0 and 1.1 used -4
            of 48 blocks; 1.2 was published without the last three blocks.
        norm: ``rms_norm`` (6B) or ``layer_norm`` (300M).
        norm_eps: epsilon of all norms.
        qk_norm: whether queries and keys are RMS-normalised over the whole width.
        qkv_bias: whether queries, keys and values have a bias.
        layer_scale: initial value of layer scale.
        drop_path: rate of stochastic depth in the last block; it increases linearly from 0 in the first.
        mean: mean of the pixels, ImageNet's by default.
        std: standard deviation of the pixels, ImageNet's by default.

    Raises:
        ValueError: the model has no such layer, or an argument is out of range.
    """

    patch: int
    depth: int

    def __init__(
        self,
        *,
        width: int = 3200,
        depth: int = 45,
        heads: int = 25,
        mlp_width: int = 12800,
        patch: int = 14,
        image_size: int = 448,
        tile_size: int | None = None,
        select_layer: int = -1,
        norm: Literal["rms_norm", "layer_norm"] = "rms_norm",
        norm_eps: float = 1e-6,
        qk_norm: bool = True,
        qkv_bias: bool = False,
        layer_scale: float = 0.1,
        drop_path: float = 0.0,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be in 0..1, 1 excluded, got {drop_path}")
        if norm not in ("rms_norm", "layer_norm"):
            raise ValueError(f"norm must be rms_norm or layer_norm, got {norm!r}")
        if image_size % patch:
            raise ValueError(f"image_size must be a multiple of patch={patch}, got {image_size}")
        built = 1 + check_layer(select_layer, depth)
        numbers = {
            "hidden_size": width,
            "num_hidden_layers": built,
            "num_attention_heads": heads,
            "intermediate_size": mlp_width,
            "patch_size": patch,
            "image_size": image_size,
            "norm_type": norm,
            "layer_norm_eps": norm_eps,
            "use_qk_norm": qk_norm,
            "attention_bias": qkv_bias,
            "layer_scale_init_value": layer_scale,
        }
        super().__init__(
            model=_model(numbers, [drop_path * i / max(1, depth - 1) for i in range(built)]),
            mean=mean,
            std=std,
            tile_size=check_tile(tile_size or image_size, patch, image_size),
            select_layer=select_layer,
            final_norm=False,
            patch_size=(patch, patch),
        )
        self.patch, self.depth = patch, depth
        self._infer_sizes("InternViT", numbers)

    @classmethod
    def from_pretrained(
        cls,
        *,
        weights: str | Path | None = None,
        prefix: str = "vision_model.",
        **options: Any,
    ) -> "InternViT":
        """Build the encoder and load its weights.

        Args:
            weights: a local path or ``hub:owner/name``; ``None`` leaves the weights random.
            prefix: prefix of the encoder's tensors in a complete InternVL checkpoint.
            **options: arguments of the class.

        Raises:
            ValueError: keys are missing, unexpected or of another shape; the message lists them.
        """
        encoder = cls(**options)
        if weights is None:
            return encoder
        path = find_weight_file(weights, HUB_FILES)
        state = without_prefix(read_tensors(path), prefix)
        found, used = dict[str, Tensor](), set[str]()
        for own in encoder.model.state_dict():
            key, part = published_key(own)
            used.add(key)
            if key in state:
                found[own] = state[key] if part is None else state[key].chunk(3)[part]
        surplus = {key: state[key] for key in set(state) - used if not encoder.is_unused_block(key)}
        load_exactly(encoder.model, found | surplus, known=set(found), source=path)
        return encoder

    def is_unused_block(self, key: str) -> bool:
        """Return whether a published ``key`` belongs to a block after ``select_layer``."""
        built, number = self.depth + self.select_layer + 1, published_block(key)
        return number is not None and built <= number < self.depth

    def tokens(
        self, pixels: Float[Tensor, "t c h w"]
    ) -> tuple[Float[Tensor, "t n d"], Float[Tensor, "t _p d"]]:
        """Return the patch features and the class token of the last block."""
        found = self.model(pixel_values=pixels).last_hidden_state
        return found[:, 1:], found[:, :1]


class _Embeddings(nn.Module):
    """Patch embedding with class token and positions, which are interpolated in float32."""

    def __init__(self, native: Any, side: int) -> None:
        super().__init__()
        self.cls_token: Tensor = native.cls_token
        self.patch_embeddings: Any = native.patch_embeddings
        self.position_embeddings: Tensor = native.position_embeddings
        self.side, self.kept = side, KeptTables()

    def forward(
        self, pixels: Float[Tensor, "t c h w"], bool_masked_pos: None = None
    ) -> Float[Tensor, "t n d"]:
        maps = self.patch_embeddings.projection(pixels)  # t d y x
        patches = rearrange(maps, "t d y x -> t (y x) d")
        first = self.cls_token.expand(len(patches), -1, -1)
        return torch.cat((first, patches), dim=1) + self.positions(maps.shape[2], maps.shape[3])

    def positions(self, rows: int, cols: int) -> Float[Tensor, "1 n d"]:
        """Return the position embeddings of a grid of patches, that of the class token first."""
        table = self.position_embeddings
        if (rows, cols) == (self.side, self.side):  # where interpolation changes nothing
            return table
        own = self.side, self.side

        def resize() -> Tensor:
            patches = resized(table[0, 1:], own, (rows, cols))
            return torch.cat((table[0, :1], patches))

        return self.kept(table[0], (rows, cols), resize)[None]


def _model(numbers: Mapping[str, Any], rates: Sequence[float]) -> Any:
    """Return the model of transformers, extended by stochastic depth and float32 interpolation."""
    from transformers import AutoConfig, AutoModel

    described = AutoConfig.for_model("internvl_vision", **numbers)
    model = AutoModel.from_config(described, trust_remote_code=False)
    side = described.image_size[0] // described.patch_size[0]
    model.embeddings = _Embeddings(model.embeddings, side)
    for block, rate in zip(model.encoder.layer, rates, strict=True):
        attention = block.attention
        if described.use_qk_norm:  # transformers fixes their eps at 1e-6
            attention.q_norm.variance_epsilon = described.layer_norm_eps
            attention.k_norm.variance_epsilon = described.layer_norm_eps
        if rate:
            _drop_paths(block, rate)
    return model


def _drop_paths(block: Any, rate: float) -> None:
    from timm.layers.drop import DropPath

    # Both modules precede layer scale, so that dropping a sample there also drops its scaled output.
    block.attention.projection_dropout, block.dropout = DropPath(rate), DropPath(rate)
