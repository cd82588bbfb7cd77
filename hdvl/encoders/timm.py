"""Vision models of timm that return feature maps: transformers and convolutional networks."""

import inspect
import re
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
from hdvl.encoders.weights import Rename, find_weight_file, load_exactly, read_tensors, renamed
from hdvl.keys import similar

FILES = ("model.safetensors", "pytorch_model.bin")


class TimmEncoder(PatchEncoder):
    """Vision model ``name`` of timm with random weights; :meth:`from_pretrained` loads weights.

    Position embeddings are resized by ``set_input_size`` of timm if ``tile_size`` differs from the model's
    size, and in each forward pass for images of another size than a tile. ``config`` is passed to
    ``timm.create_model`` (``embed_dim``, ``depth``, ``drop_path_rate``, ...). For a convolutional model
    ``select_layer`` counts feature levels: -1 is the coarsest map, -2 the next finer one.

    Raises:
        ValueError: the name is unknown, or the model has no such layer or no final norm.
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
        self.prefix = getattr(model, "num_prefix_tokens", None)  # None for models of feature maps
        self.from_maps = self.prefix is None
        # Some class-attention models (CaiT, XCiT) add their prefix after the blocks and do not return it.
        taken = inspect.signature(model.forward_intermediates).parameters
        self.gives_prefix = bool(self.prefix) and "return_prefix_tokens" in taken
        self.known = frozenset(model.state_dict())
        model.prune_intermediate_layers([self.layer], prune_norm=not final_norm, prune_head=True)
        self._resize(tile_size or native)
        self._infer_sizes(name, dict(config or {}))

    @classmethod
    def from_pretrained(
        cls,
        *,
        name: str,
        weights: str | Path | None = None,
        tile_size: int | None = None,
        config: Mapping[str, Any] | None = None,
        rename: Rename = None,
        **options: Any,
    ) -> "TimmEncoder":
        """Build the encoder and load its weights, in any layout that timm converts (its own, open_clip's).

        Args:
            weights: a local path or ``hub:owner/name``; ``None`` leaves the weights random.
            rename: changes names of the stored tensors, see :func:`hdvl.encoders.weights.renamed`.
            **options: arguments of the class.

        Raises:
            ValueError: keys are missing, unexpected or of another shape; the message lists the first.
        """
        if weights is None:
            return cls(name=name, tile_size=tile_size, config=config, **options)
        encoder = cls(name=name, config=config, **options)
        path = find_weight_file(weights, FILES)
        with torch.device("meta"):
            complete = _create(name, config)
        # Each model file of timm defines which other layouts it converts.
        convert = getattr(sys.modules[type(complete).__module__], "checkpoint_filter_fn", None)
        stored = renamed(read_tensors(path), rename)
        state = stored if convert is None else convert(stored, complete)
        load_exactly(encoder.model, state, known=encoder.known, source=path, renames=True)
        encoder._resize(tile_size or encoder.tile_size)
        encoder._infer_sizes(name, dict(config or {}))
        return encoder

    def tokens(
        self, pixels: Float[Tensor, "t c h w"]
    ) -> tuple[Float[Tensor, "t n d"], Float[Tensor, "t _p d"]]:
        """Return patch features and prefix tokens of the selected block."""
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

    def _feature_step(self) -> tuple[int, int] | None:
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
        if hasattr(self.model, "set_input_size"):  # other models support any size
            self.model.set_input_size(img_size=(tile_size, tile_size))
        self.tile_size = tile_size


def _create(name: str, config: Mapping[str, Any] | None) -> Any:
    import timm

    if not timm.is_model(name.split(".")[0]):
        near = ", ".join(get_close_matches(name, timm.list_models(), n=5))
        raise ValueError(
            f"encoder.name must be a model of timm, got {name!r}; close: {near or 'none'}"
        )
    try:
        return timm.create_model(name, pretrained=False, **(config or {}))
    except TypeError as error:
        found = re.search(
            r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)
        )
        if not found or found[2] not in (config or {}):
            raise
        module = sys.modules[timm.model_entrypoint(name.split(".")[0]).__module__]
        known = list(inspect.signature(getattr(module, found[1])).parameters)
        raise ValueError(
            f"encoder.config.{found[2]} must be an argument of {name}{similar(found[2], known)}"
        ) from error


def _native_size(model: Any) -> int:
    embedding = getattr(model, "patch_embed", None)
    size = getattr(embedding, "img_size", None)
    return int(size[0] if size else model.pretrained_cfg["input_size"][-1])
