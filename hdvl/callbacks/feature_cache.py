"""Features of a frozen encoder on the disk: from the second epoch on, nothing is encoded.

An image's features are found by three hashes: of the pixels of its tiles (which are the image as the
tiler cut it: any other reading of it is another key), of their layout, and of the encoder, its weights and
the plain numbers it is made with. One file an image, written whole or not at all.
"""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from hdvl.files import atomic_write
from hdvl.protocols import EncodeImages
from hdvl.training.audit import fingerprint, fingerprints
from hdvl.training.module import VLMModule

STORED = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Damaged(ValueError):
    """An entry of the cache that is not what was written under its name."""


def encoder_hash(encoder: nn.Module) -> str:
    """Hash of an encoder's weights, layers and plain attributes (which layer is taken, mean, ...)."""
    whole = hashlib.blake2b(digest_size=16)
    for name, value in sorted(fingerprints(encoder).items()):
        whole.update(f"{name}={value};".encode())
    for name, module in encoder.named_modules():
        plain = {
            key: value
            for key, value in sorted(vars(module).items())
            if key != "training" and isinstance(value, bool | int | float | str | tuple | None)
        }
        whole.update(f"{name}:{type(module).__qualname__}{plain};".encode())
    return whole.hexdigest()


class FeatureStore:
    """Entries of one encoder in ``folder``.

    Args:
        folder: where entries lie; several encoders and several runs may share it.
        encoder: the frozen encoder.
        dtype: what features are stored in; null as they are. Rounded ones are used from the first
            epoch on, so that all epochs see the same.
        max_bytes: no more is written from here on; null for no limit.
    """

    def __init__(
        self,
        folder: str | Path,
        encoder: nn.Module,
        *,
        dtype: Literal["float32", "float16", "bfloat16"] | None = None,
        max_bytes: int | None = None,
    ) -> None:
        if dtype is not None and dtype not in STORED:
            raise ValueError(f"dtype must be one of {', '.join(STORED)} or null, got {dtype!r}")
        if any(parameter.requires_grad for parameter in encoder.parameters()):
            raise ValueError(
                "features can be kept of a frozen encoder only; set tuning.encoder=frozen, or drop "
                "the feature cache"
            )
        self.encoder = encoder
        self.folder = Path(folder) / encoder_hash(encoder)
        self.dtype = None if dtype is None else STORED[dtype]
        self.max_bytes = max_bytes
        self.bytes = sum(file.stat().st_size for file in self.folder.glob("*/*.safetensors"))
        self.read = self.encoded = self.damaged = self.unkept = 0

    def features(
        self, images: Sequence[UInt8[Tensor, "_t c _h _w"]], encode: EncodeImages
    ) -> list[Float[Tensor, "_t _n d"]]:
        """Features of each image: read where they are known, else encoded and written."""
        if self.encoder.training:
            raise RuntimeError(
                "a cached encoder must be in evaluation mode, this one is in training"
            )
        keys = [self._key(image) for image in images]
        first = {key: keys.index(key) for key in keys}  # an image may be there twice
        known = {key: found for key in first if (found := self._find(key)) is not None}
        absent = [key for key in first if key not in known]
        own = encode([images[first[key]] for key in absent]) if absent else []
        for key, features in zip(absent, own, strict=True):
            known[key] = self._keep(key, features.detach())
        self.encoded += len(absent)
        self.read += len(keys) - len(absent)
        return [known[key].to(image.device) for key, image in zip(keys, images, strict=True)]

    def summary(self) -> str:
        """What was read and written, in a line."""
        text = (
            f"feature cache: {self.read:,} images read, {self.encoded:,} encoded, "
            f"{self.bytes / 1e9:.3g} GB in {self.folder}"
        )
        if self.damaged:
            text += f"; {self.damaged:,} damaged entries encoded anew"
        if self.unkept:
            text += f"; {self.unkept:,} not kept: max_bytes={self.max_bytes} is reached"
        return text

    def _key(self, image: UInt8[Tensor, "t c h w"]) -> str:
        """Hash of the pixels, the layout, and the precision that the encoder runs in."""
        kind = image.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else "own"
        whole = f"{tuple(image.shape)} {precision} {self.dtype} {fingerprint(image)}"
        return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()

    def path(self, key: str) -> Path:
        """The file of an entry."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def _find(self, key: str) -> Tensor | None:
        """The entry, if there is one that is whole."""
        path = self.path(key)
        if not path.exists():
            return None
        try:
            return _load(path, key)
        except Damaged as error:
            self.damaged += 1
            warnings.warn(f"{error}; its image is encoded anew", stacklevel=2)
            return None

    def _keep(self, key: str, features: Float[Tensor, "t n d"]) -> Float[Tensor, "t n d"]:
        """Write an entry; gives the features as they will be read."""
        stored = features.to(self.dtype or features.dtype).cpu().contiguous()
        if self.max_bytes is None or self.bytes + stored.nbytes <= self.max_bytes:
            path = self.path(key)
            meta = {"key": key, "sum": fingerprint(stored), "dtype": str(features.dtype)[6:]}
            # The checksum tells an entry that a power cut damaged; to flush each would take long.
            with atomic_write(path, durable=False) as part:
                part.write_bytes(save({"features": stored}, metadata=meta))
            self.bytes += path.stat().st_size
        else:
            self.unkept += 1
        return stored.to(features.dtype)


def _load(path: Path, key: str) -> Tensor:
    """The features of an entry.

    Raises:
        Damaged: cut short, changed, or of another image.
    """
    try:
        with safe_open(path, framework="pt") as file:
            meta, stored = file.metadata() or {}, file.get_tensor("features")
    except SafetensorError as error:
        raise Damaged(f"{path} is no whole entry of a feature cache: {error}") from error
    if meta.get("key") != key:
        raise Damaged(f"{path} holds the features of another image, {meta.get('key')}")
    if fingerprint(stored) != meta.get("sum"):
        raise Damaged(f"{path} holds other features than were written")
    features: Tensor = stored.to(getattr(torch, meta["dtype"]))
    return features


class FeatureCacheCallback(pl.Callback):
    """Gives the model its encoder's features from ``folder`` while it trains.

    The encoder must be frozen. See :class:`FeatureStore` for the arguments.
    """

    store: FeatureStore

    def __init__(
        self,
        *,
        folder: str,
        dtype: Literal["float32", "float16", "bfloat16"] | None = None,
        max_bytes: int | None = None,
    ) -> None:
        self.folder, self.dtype, self.max_bytes = folder, dtype, max_bytes

    def on_fit_start(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """The weights are what they will be: hash the encoder, and cache its features."""
        vlm = pl_module.vlm
        self.store = FeatureStore(
            self.folder, vlm.get_submodule("encoder"), dtype=self.dtype, max_bytes=self.max_bytes
        )
        pl_module.feature_cache = self.store

    def teardown(self, trainer: pl.Trainer, pl_module: VLMModule, stage: str) -> None:
        """The model goes on without the cache."""
        if pl_module.feature_cache is not None:
            pl_module.feature_cache = None
            if trainer.is_global_zero:
                print(self.store.summary(), flush=True)
