"""Vision transformers of open_clip, with its own trunk or one of timm (SigLIP, EVA)."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from hdvl.encoders.base import PatchEncoder, check_layer, check_tile
from hdvl.encoders.timm_sizes import at_size, patch_size
from hdvl.encoders.weights import (
    Rename,
    find_weight_file,
    load_exactly,
    read_tensors,
    renamed,
    without_prefix,
)
from hdvl.positions import KeptTables
from hdvl.protocols import Grid

FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors")
# The public class of open_clip builds a text tower too. It is made as small as possible and discarded.
TEXT = {"context_length": 2, "vocab_size": 2, "width": 8, "heads": 1, "layers": 1}


class OpenCLIPEncoder(PatchEncoder):
    """Vision tower of the open_clip model ``name`` with random weights.

    ``config`` overrides the model's ``vision_cfg`` (``layers``, ``width``, ``patch_size``, ...). Position
    embeddings are resized by open_clip if ``tile_size`` differs from the model's size, and in each forward
    pass for images of another size than a tile. The weights of OpenAI need the ``-quickgelu`` variant of a
    model. Published by Radford et al. (CLIP, arXiv 2103.00020), Zhai et al. (SigLIP, arXiv 2303.15343) and
    Sun et al. (EVA-CLIP, arXiv 2303.15389).

    Raises:
        ValueError: the name is unknown or no transformer, the model has no such layer or no final norm,
            or its published weights differ in ``mean`` and ``std``.
    """

    layer: int
    known: frozenset[str]

    def __init__(
        self,
        *,
        name: str,
        tile_size: int | None = None,
        select_layer: int = -1,
        final_norm: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        visual = _create(name, config)
        trunk = getattr(visual, "trunk", visual)
        own = trunk is visual  # open_clip's own transformer, or timm's
        native = visual.image_size[0] if own else trunk.patch_embed.img_size[0]
        if own and final_norm and visual.attn_pool is not None:
            raise ValueError(
                f"final_norm=True is for pooled queries in {name}; set final_norm=False"
            )
        if mean is None or std is None:
            mean, std = _published_statistics(name)
        super().__init__(
            model=visual,
            mean=mean,
            std=std,
            tile_size=native,
            select_layer=select_layer,
            final_norm=final_norm,
            patch_size=tuple(visual.patch_size) if own else patch_size(trunk),
        )
        self.known, self.kept = frozenset(visual.state_dict()), KeptTables()
        blocks = visual.transformer.resblocks if own else trunk.blocks
        self.layer = check_layer(select_layer, len(blocks))
        trunk.prune_intermediate_layers([self.layer], prune_norm=not final_norm, prune_head=True)
        self._resize(tile_size or native)
        self._infer_sizes(name, dict(config or {}))

    @classmethod
    def from_pretrained(
        cls,
        *,
        name: str,
        weights: str | Path | None = None,
        tile_size: int | None = None,
        prefix: str = "visual.",
        rename: Rename = None,
        **options: Any,
    ) -> "OpenCLIPEncoder":
        """Build the encoder and load its weights.

        Args:
            weights: a local path or ``hub:owner/name``; ``None`` leaves the weights random.
            prefix: prefix of the encoder's tensors in a complete CLIP checkpoint.
            rename: changes names of the stored tensors, see :func:`hdvl.encoders.weights.renamed`.
            **options: arguments of the class.

        Raises:
            ValueError: keys are missing, unexpected or of another shape; the message lists the first.
        """
        if weights is None:
            return cls(name=name, tile_size=tile_size, **options)
        encoder = cls(name=name, **options)
        path = find_weight_file(weights, FILES)
        stored = renamed(read_tensors(path), rename)
        state = without_prefix(without_prefix(stored, "module."), prefix)
        load_exactly(encoder.model, state, known=encoder.known, source=path, renames=True)
        encoder._resize(tile_size or encoder.tile_size)
        encoder._infer_sizes(name, dict(options.get("config") or {}))
        return encoder

    def tokens(
        self, pixels: Float[Tensor, "t c h w"]
    ) -> tuple[Float[Tensor, "t n d"], Float[Tensor, "t _p d"]]:
        """Return patch features and prefix tokens of the selected block."""
        rows, cols = pixels.shape[2], pixels.shape[3]
        if hasattr(self.model, "trunk"):
            with at_size(self.model.trunk, rows, cols):
                return self._selected_features(pixels)
        grid = rows // self.model.patch_size[0], cols // self.model.patch_size[1]
        if grid == tuple(self.model.grid_size):
            return self._selected_features(pixels)
        # Replaced for this call only, so that gradients reach the original position embeddings.
        table = self.model.positional_embedding
        resized = self.kept(table, grid, lambda: _resized(self.model, grid))
        swapped = {"model.positional_embedding": resized}
        found: tuple[Tensor, Tensor] = functional_call(_SelectedBlock(self), swapped, (pixels,))
        return found

    def _selected_features(
        self, pixels: Float[Tensor, "t c h w"]
    ) -> tuple[Float[Tensor, "t n d"], Float[Tensor, "t _p d"]]:
        found = self.model.forward_intermediates(
            pixels,
            indices=[self.layer],
            stop_early=True,
            normalize_intermediates=self.final_norm,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        (patches,) = found["image_intermediates"]
        (prefix,) = found.get("image_intermediates_prefix", [patches[:, :0]])
        return patches, patches[:, :0] if prefix is None else prefix

    def _resize(self, tile_size: int) -> None:
        if tile_size == self.tile_size:
            return
        if hasattr(self.model, "trunk"):
            check_tile(tile_size, self.model.trunk.patch_embed.patch_size[0], self.tile_size)
            self.model.set_input_size(tile_size)
        else:
            check_tile(tile_size, self.model.patch_size[0], self.tile_size)
            _resize_positions(self.model, tile_size)
        self.tile_size = tile_size


def _create(name: str, config: Mapping[str, Any] | None) -> Any:
    import open_clip

    if name not in open_clip.list_models():
        near = ", ".join(get_close_matches(name, open_clip.list_models(), n=5))
        raise ValueError(
            f"name must be a model of open_clip, got {name!r}; close: {near or 'none'}"
        )
    known = deepcopy(open_clip.get_model_config(name))
    model = open_clip.CLIP(
        embed_dim=known["embed_dim"],
        vision_cfg=known["vision_cfg"] | dict(config or {}),
        text_cfg=TEXT,
        quick_gelu=known.get("quick_gelu", False),
    )
    visual = model.visual
    if not hasattr(getattr(visual, "trunk", visual), "blocks") and not hasattr(
        visual, "transformer"
    ):
        raise ValueError(
            f"name must be a vision transformer, got {name!r}; take convolutional models from timm"
        )
    return visual


def _published_statistics(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and std of the published weights of ``name`` (those of CLIP if there are none)."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    configs = [open_clip.get_pretrained_cfg(name, tag) for tag in tags]
    found = {(tuple(config["mean"]), tuple(config["std"])) for config in configs}
    if len(found) > 1:
        raise ValueError(
            f"mean and std must be given for {name}, its weights disagree: {sorted(found)}"
        )
    if not found:
        return open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return found.pop()


class _SelectedBlock(nn.Module):
    """Module whose forward pass returns the output of the selected block, for ``functional_call``."""

    def __init__(self, encoder: OpenCLIPEncoder) -> None:
        super().__init__()
        self.model, self.chosen = encoder.model, encoder._selected_features

    def forward(
        self, pixels: Float[Tensor, "t c h w"]
    ) -> tuple[Float[Tensor, "t n d"], Float[Tensor, "t _p d"]]:
        return self.chosen(pixels)


def _resized(visual: Any, grid: Grid) -> Float[Tensor, "n d"]:
    """Return the position embeddings resized to ``grid``; that of the class token is not changed."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    table: Tensor = visual.positional_embedding
    # Equals resize_pos_embed of open_clip (bicubic, antialiased), which supports only square grids.
    resized: Tensor = resample_abs_pos_embed(table[None], list(grid), list(visual.grid_size), 1)
    return resized[0]


def _resize_positions(visual: Any, tile_size: int) -> None:
    grid = tile_size // visual.patch_size[0], tile_size // visual.patch_size[1]
    visual.positional_embedding = nn.Parameter(
        _resized(visual, grid).detach(),
        requires_grad=visual.positional_embedding.requires_grad,
    )
    visual.grid_size, visual.image_size = grid, (tile_size, tile_size)
