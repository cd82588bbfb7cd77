"""Vision transformers of transformers: CLIP, SigLIP, SigLIP2, DINOv2, DINOv3, ViT and others."""

import inspect
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from hdvl.encoders.base import PatchEncoder, check_layer, check_tile
from hdvl.encoders.weights import (
    HUB_FILES,
    Rename,
    find_weight_file,
    load_exactly,
    read_tensors,
    renamed,
    without_prefix,
)

# Keys of a configuration that do not describe the structure of the vision transformer.
NOT_STRUCTURE = {"initializer_range", "initializer_factor", "projection_dim", "vision_use_head"}


class TransformersEncoder(PatchEncoder):
    """Vision model of transformers of type ``name`` (``clip_vision_model``, ...) with random weights.

    ``config`` overrides the default configuration of the type (``hidden_size``, ...). Blocks after
    ``select_layer`` are not built. For images of another size than that of the configuration, the model
    interpolates its position embeddings in every forward pass, so that the parameter keeps its published
    shape. ``mean`` and ``std`` have no default, because transformers keeps them with the weights.

    With ``feature_norm`` the selected block is followed by a LayerNorm (eps 1e-5, computed in float32),
    as in XVERSE-V.

    Raises:
        ValueError: the type is unknown, or the model has no such layer or no final norm.
    """

    patch: int
    accepts: frozenset[str]
    is_built: bool
    feature_norm: nn.Module

    def __init__(
        self,
        *,
        name: str,
        mean: Sequence[float],
        std: Sequence[float],
        tile_size: int | None = None,
        select_layer: int = -1,
        final_norm: bool = False,
        feature_norm: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        from transformers import AutoModel

        described = _describe(name, config)
        described.num_hidden_layers = 1 + check_layer(select_layer, described.num_hidden_layers)
        described.tie_last_hidden_states = False  # otherwise the last hidden state is normalised
        native = _native_size(described)
        super().__init__(
            model=AutoModel.from_config(described, trust_remote_code=False),
            mean=mean,
            std=std,
            tile_size=tile_size or native,
            select_layer=select_layer,
            final_norm=final_norm,
            patch_size=(_first(described.patch_size),) * 2,
        )
        self.patch = _first(described.patch_size)
        check_tile(self.tile_size, self.patch, native)
        self.accepts = _forward_arguments(name, self.model)
        width = described.hidden_size
        self.feature_norm = Float32LayerNorm(width, eps=1e-5) if feature_norm else nn.Identity()
        self.is_built = False
        self._infer_sizes(name, {**described.to_dict(), "feature_norm": feature_norm})
        self.is_built = True

    @classmethod
    def from_pretrained(
        cls,
        *,
        name: str,
        weights: str | Path | None = None,
        config: Mapping[str, Any] | None = None,
        prefix: str = "vision_model.",
        rename: Rename = None,
        **options: Any,
    ) -> "TransformersEncoder":
        """Build the encoder and load its weights.

        A ``config.json`` or ``preprocessor_config.json`` in the folder of the weights must agree with
        ``config``, ``mean`` and ``std``, because only the configuration of hdvl defines the model.

        Args:
            weights: a local path or ``hub:owner/name``; ``None`` leaves the weights random.
            prefix: prefix of the encoder's tensors in a complete vision-language checkpoint.
            rename: changes names of the stored tensors, see :func:`hdvl.encoders.weights.renamed`.
            **options: arguments of the class.

        Raises:
            ValueError: the folder describes another model, or keys are missing, unexpected or of another
                shape; the message lists the first.
        """
        encoder = cls(name=name, config=config, **options)
        if weights is None:
            return encoder
        path = find_weight_file(weights, HUB_FILES)
        complete = _describe(name, config)
        _check_description(path.parent, complete, encoder)
        stored = without_prefix(renamed(read_tensors(path), rename), prefix)
        state, known = _renamed(complete, stored)
        load_exactly(encoder.model, state, known=known, source=path, renames=True)
        return encoder

    def tokens(
        self, pixels: Float[Tensor, "t c h w"]
    ) -> tuple[Float[Tensor, "t n d"], Float[Tensor, "t _p d"]]:
        """Return patch features and prefix tokens of the last block."""
        # Most models normalise the last hidden state, but not the entries of hidden_states. Once the
        # encoder is built, an unused norm has been removed, and the list is not needed any more.
        without_norm = not self.final_norm and not self.is_built
        if "patch_attention_mask" in self.accepts:
            found = self.feature_norm(self._unpadded(pixels, without_norm))
        else:
            output = self.model(**self._inputs(pixels), output_hidden_states=without_norm)
            states = output.hidden_states[-1] if without_norm else output.last_hidden_state
            found = self.feature_norm(states)
        if found.ndim == 4:  # maps
            found = found.flatten(2).transpose(1, 2)
        rows, cols = pixels.shape[2] // self.patch, pixels.shape[3] // self.patch
        count = max(0, found.shape[1] - rows * cols)
        return found[:, count:], found[:, :count]

    def _unpadded(
        self, pixels: Float[Tensor, "t c h w"], without_norm: bool
    ) -> Float[Tensor, "t n d"]:
        """Return the last hidden state of models that take a padding mask (Idefics3, SmolVLM).

        Their forward pass reads the values of the mask, which is impossible on ``meta`` and would
        synchronise a GPU. Images here have no padding, so the mask is left out, and positions are looked
        up by the model's rule for fractions of the image.
        """
        rows, cols = pixels.shape[2] // self.patch, pixels.shape[3] // self.patch
        mask = torch.ones(len(pixels), rows, cols, dtype=torch.bool, device=pixels.device)
        embedded = self.model.embeddings(pixel_values=pixels, patch_attention_mask=mask)
        states: Tensor = self.model.encoder(inputs_embeds=embedded).last_hidden_state
        normed: Tensor = states if without_norm else self.model.post_layernorm(states)
        return normed

    def _inputs(self, pixels: Float[Tensor, "t c h w"]) -> dict[str, Any]:
        if "spatial_shapes" in self.accepts:  # SigLIP2 NaFlex takes a sequence of patches
            grid = [pixels.shape[2] // self.patch, pixels.shape[3] // self.patch]
            patches = rearrange(
                pixels, "t c (r p) (s q) -> t (r s) (p q c)", p=self.patch, q=self.patch
            )
            # The model reads these values, which would synchronise a GPU if they were on one.
            shapes = torch.tensor([grid] * len(pixels), device="cpu").reshape(-1, 2)
            return {"pixel_values": patches, "pixel_attention_mask": None, "spatial_shapes": shapes}
        if "interpolate_pos_encoding" in self.accepts:
            return {"pixel_values": pixels, "interpolate_pos_encoding": True}
        return {"pixel_values": pixels}


class Float32LayerNorm(nn.LayerNorm):
    """LayerNorm that computes in float32 for weights and inputs of any type."""

    def forward(self, input: Float[Tensor, "t n d"]) -> Float[Tensor, "t n d"]:
        """Return ``input`` normalised over its last axis, in the dtype of ``input``."""
        weight, bias = self.weight.float(), self.bias.float()
        shape = list(self.normalized_shape)
        return functional.layer_norm(input.float(), shape, weight, bias, self.eps).to(input.dtype)


def _first(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else size[0]


def _describe(name: str, config: Mapping[str, Any] | None) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    if name not in MODEL_MAPPING_NAMES:
        raise ValueError(
            f"name must be a model type of transformers, such as clip_vision_model, got {name!r}"
        )
    default = AutoConfig.for_model(name)
    _check_kind(name, default)
    arguments = inspect.signature(type(default).__init__).parameters
    known = {*default.to_dict(), *default.attribute_map, *arguments}
    for key in config or {}:
        if key not in known:
            close = get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(sorted(known))}"
            raise ValueError(f"config of {name} has no {key}; {hint}")
    return AutoConfig.for_model(name, **(config or {}))


def _check_kind(name: str, described: Any) -> None:
    """Raise a ``ValueError`` for model types whose configuration is not that of a vision transformer."""
    keys = ("hidden_size", "num_hidden_layers", "patch_size")
    lacking = [key for key in keys if not hasattr(described, key)]
    if not hasattr(described, "image_size") and not hasattr(described, "num_patches"):
        lacking.append("image_size")
    if not lacking:
        return
    vision = getattr(described, "vision_config", None)
    kind = getattr(vision, "model_type", None)
    raise ValueError(
        f"name must be the type of a vision transformer, the configuration of {name} has no "
        f"{' and no '.join(lacking)}; "
        + (f"take its vision part, {kind}" if kind else "encoder=timm has more kinds of models")
    )


def _forward_arguments(name: str, model: nn.Module) -> frozenset[str]:
    """Return the arguments of the forward pass of ``model``.

    Raises:
        ValueError: it requires other arguments than pixels and their shapes.
    """
    taken = inspect.signature(model.forward).parameters
    given = {"pixel_values", "pixel_attention_mask", "spatial_shapes"}
    needed = [
        key
        for key, parameter in taken.items()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and key not in given
    ]
    if needed or "pixel_values" not in taken:
        raise ValueError(
            f"name must be the type of an image encoder, {name} needs "
            f"{', '.join(needed) or 'other things'} besides pixel_values"
        )
    return frozenset(taken)


def _native_size(described: Any) -> int:
    size = getattr(described, "image_size", None)
    if size is None:  # SigLIP2 NaFlex has a number of patches instead
        return isqrt(described.num_patches) * _first(described.patch_size)
    return _first(size)


def _renamed(config: Any, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], frozenset[str]]:
    """Rename the tensors of ``state`` for the installed version of transformers.

    For missing, unexpected or mis-shaped tensors transformers only logs a warning and uses random
    numbers. They are kept as they are here, so that ``load_exactly`` reports them.

    Returns:
        The renamed tensors, and the names of all tensors of the complete model.
    """
    from transformers import AutoModel

    with torch.device("meta"):
        kind = type(AutoModel.from_config(config, trust_remote_code=False))
    model, info = kind.from_pretrained(
        None,
        config=config,
        state_dict=state,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    loaded = model.state_dict()
    known = frozenset(loaded)
    mismatched = {
        key: torch.empty(shape, device="meta") for key, shape, _ in info["mismatched_keys"]
    }
    unexpected = {key: state[key] for key in info["unexpected_keys"]}
    found = {key: loaded[key] for key in known - info["missing_keys"]}
    return found | mismatched | unexpected, known


def _check_description(folder: Path, config: Any, encoder: TransformersEncoder) -> None:
    """Raise a ``ValueError`` if the folder of the weights describes another model than ``encoder``."""
    from transformers import PreTrainedConfig

    differing: dict[str, tuple[Any, Any]] = {}
    if (folder / "config.json").is_file():
        published = json.loads((folder / "config.json").read_text())
        published = published.get("vision_config", published)
        published_values = type(config)(**published).to_dict()
        own_values = config.to_dict()
        for key in sorted(set(own_values) - set(PreTrainedConfig().to_dict()) - NOT_STRUCTURE):
            if own_values[key] != published_values[key]:
                differing[f"config.{key}"] = (published_values[key], own_values[key])
    if (folder / "preprocessor_config.json").is_file():
        published = json.loads((folder / "preprocessor_config.json").read_text())
        for key, numbers in (("mean", encoder.mean), ("std", encoder.std)):
            published_values = published.get(f"image_{key}", numbers)
            if any(abs(a - b) > 1e-3 for a, b in zip(published_values, numbers, strict=True)):
                differing[key] = (list(published_values), list(numbers))
    if differing:
        listed = "; ".join(f"{key}={a} (not {b})" for key, (a, b) in differing.items())
        raise ValueError(f"encoder must be what the weights in {folder} are for; set {listed}")
