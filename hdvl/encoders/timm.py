"""Any vision model of timm that gives feature maps: ViTs and convolutional networks alike."""

import inspect
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from hdvl.encoders.base import PatchEncoder, check_layer, check_tile
from hdvl.encoders.timm_sizes import at_size, patch_size
from hdvl.encoders.weights import fit, locate, read

FILES = ("model.safetensors", "pytorch_model.bin")


class TimmEncoder(PatchEncoder):
    """timm's model ``name``, random-initialised; :meth:`from_pretrained` loads weights.

    Position embeddings are resized by timm's own ``set_input_size`` when ``tile_size`` differs
    from the model's, and in each forward pass for images of another size than the tiles.
    ``config`` goes to ``timm.create_model`` (``embed_dim``, ``depth``, ``drop_path_rate``...). For a
    convolutional model ``select_layer`` counts its feature levels: -1 is the coarsest map, -2 one
    level finer.

    Raises:
        ValueError: unknown name, a layer that the model does not have, or no final norm to apply.
    """

    layer: int
    prefix: int | None
    gives_prefix: bool
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
        model = _create(name, config)
        native = _native_size(model)
        super().__init__(
            model=model,
            mean=mean or model.pretrained_cfg["mean"],
            std=std or model.pretrained_cfg["std"],
            tile_size=native,
            select_layer=select_layer,
            final_norm=final_norm,
            patch_size=patch_size(model),
        )
        self.layer = check_layer(select_layer, len(model.feature_info))
        self.prefix = getattr(model, "num_prefix_tokens", None)  # None: it has maps, not tokens
        self.from_maps = self.prefix is None
        # Some class-attention models (CaiT, XCiT) add their prefix behind the blocks, and give none.
        taken = inspect.signature(model.forward_intermediates).parameters
        self.gives_prefix = bool(self.prefix) and "return_prefix_tokens" in taken
        self.known = frozenset(model.state_dict())
        model.prune_intermediate_layers([self.layer], prune_norm=not final_norm, prune_head=True)
        self._resize(tile_size or native)
        self._settle(name)

    @classmethod
    def from_pretrained(
        cls,
        *,
        name: str,
        weights: str | Path | None = None,
        tile_size: int | None = None,
        config: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> "TimmEncoder":
        """The encoder with ``weights``: a local path or ``hub:owner/name``; None leaves it random.

        Files in the layouts that timm itself converts (its own, open_clip's) are read.

        Raises:
            ValueError: keys missing, surplus or of another shape, all listed.
        """
        if weights is None:
            return cls(name=name, tile_size=tile_size, config=config, **options)
        encoder = cls(name=name, config=config, **options)
        path = locate(weights, FILES)
        with torch.device("meta"):
            whole = _create(name, config)
        # Each of timm's model files defines what it accepts besides its own layout.
        convert = getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None)
        state = read(path) if convert is None else convert(read(path), whole)
        fit(encoder.model, state, known=encoder.known, source=path)
        encoder._resize(tile_size or encoder.tile_size)
        encoder._settle(name)
        return encoder

    def tokens(
        self, pixels: Float[Tensor, "t c h w"]
    ) -> tuple[Float[Tensor, "t n d"], Float[Tensor, "t _p d"]]:
        """Patches and prefix of the chosen block."""
        options = {"return_prefix_tokens": True} if self.gives_prefix else {}
        with at_size(self.model, pixels.shape[2], pixels.shape[3]):
            (found,) = self.model.forward_intermediates(
                pixels,
                indices=[self.layer],
                norm=self.final_norm,
                stop_early=True,
                output_fmt="NCHW" if self.prefix is None else "NLC",
                intermediates_only=True,
                **options,
            )
        if self.gives_prefix:
            patches, prefix = found
            return patches, prefix
        patches = rearrange(found, "t d r c -> t (r c) d") if self.prefix is None else found
        return patches, patches[:, :0]

    def _step(self) -> tuple[int, int] | None:
        if self.patch_size is not None:
            return self.patch_size
        reduction = int(self.model.feature_info[self.layer]["reduction"])
        return reduction, reduction

    def _resize(self, tile_size: int) -> None:
        if tile_size == self.tile_size:
            return
        patch = self.patch_size
        if patch is not None:
            check_tile(tile_size, patch[0], self.tile_size)
        if hasattr(self.model, "set_input_size"):  # others take any size as they are
            self.model.set_input_size(img_size=(tile_size, tile_size))
        self.tile_size = tile_size


def _create(name: str, config: Mapping[str, Any] | None) -> Any:
    import timm

    if not timm.is_model(name.split(".")[0]):
        near = ", ".join(get_close_matches(name, timm.list_models(), n=5))
        raise ValueError(f"name must be a model of timm, got {name!r}; close: {near or 'none'}")
    return timm.create_model(name, pretrained=False, **(config or {}))


def _native_size(model: Any) -> int:
    embedding = getattr(model, "patch_embed", None)
    size = getattr(embedding, "img_size", None)
    return int(size[0] if size else model.pretrained_cfg["input_size"][-1])
