"""A cache of a frozen encoder's features on disk: from the second epoch on the encoder is not run.

The key of an image consists of three hashes: of the pixels of its tiles, of their layout, and of the
encoder with its weights and settings. There is one file per image, written atomically.
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
    """Raised for a cache entry whose content has changed since it was written."""


def encoder_hash(encoder: nn.Module) -> str:
    """Return a hash of an encoder's weights, layers and plain attributes (such as the selected layer)."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(fingerprints(encoder).items()):
        digest.update(f"{name}={value};".encode())
    for name, module in encoder.named_modules():
        plain = {
            key: value
            for key, value in sorted(vars(module).items())
            if key != "training" and isinstance(value, bool | int | float | str | tuple | None)
        }
        digest.update(f"{name}:{type(module).__qualname__}{plain};".encode())
    return digest.hexdigest()


class FeatureStore:
    """The cache entries of one encoder in ``folder``.

    Args:
        folder: where entries are; several encoders and runs may share it.
        encoder: the frozen encoder.
        dtype: dtype in which features are stored; None keeps theirs. Rounded features are used from the
            first epoch on, so that all epochs use the same.
        max_bytes: size of the folder from which on nothing more is written; None for no limit.
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
        """Return the features of each image. They are read if known, else computed and written."""
        if self.encoder.training:
            raise RuntimeError(
                "a cached encoder must be in evaluation mode, this one is in training"
            )
        keys = [self._key(image) for image in images]
        first = {key: keys.index(key) for key in keys}  # an image may occur twice
        known = {key: found for key in first if (found := self._find(key)) is not None}
        absent = [key for key in first if key not in known]
        own = encode([images[first[key]] for key in absent]) if absent else []
        for key, features in zip(absent, own, strict=True):
            known[key] = self._keep(key, features.detach())
        self.encoded += len(absent)
        self.read += len(keys) - len(absent)
        return [known[key].to(image.device) for key, image in zip(keys, images, strict=True)]

    def summary(self) -> str:
        """Return what was read and written, in one line."""
        text = (
            f"feature cache: {self.read:,} images read, {self.encoded:,} encoded, "
            f"{self.bytes / 1e9:.3g} GB in {self.folder}"
        )
        if self.damaged:
            text += f"; {self.damaged:,} damaged entries encoded again"
        if self.unkept:
            text += f"; {self.unkept:,} not kept: max_bytes={self.max_bytes} is reached"
        return text

    def _key(self, image: UInt8[Tensor, "t c h w"]) -> str:
        """Return a hash of the pixels, the layout, and the precision of the encoder."""
        kind = image.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else "own"
        description = f"{tuple(image.shape)} {precision} {self.dtype} {fingerprint(image)}"
        return hashlib.blake2b(description.encode(), digest_size=16).hexdigest()

    def path(self, key: str) -> Path:
        """Return the file of an entry."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def _find(self, key: str) -> Tensor | None:
        """Return the entry if there is an intact one."""
        path = self.path(key)
        if not path.exists():
            return None
        try:
            return _load(path, key)
        except Damaged as error:
            self.damaged += 1
            warnings.warn(f"{error}; its image is encoded again", stacklevel=2)
            return None

    def _keep(self, key: str, features: Float[Tensor, "t n d"]) -> Float[Tensor, "t n d"]:
        """Write an entry, and return the features as they will be read."""
        stored = features.to(self.dtype or features.dtype).cpu().contiguous()
        if self.max_bytes is None or self.bytes + stored.nbytes <= self.max_bytes:
            path = self.path(key)
            meta = {"key": key, "sum": fingerprint(stored), "dtype": str(features.dtype)[6:]}
            # Not flushed, which would be slow: the checksum reveals damage by a power cut.
            with atomic_write(path, durable=False) as part:
                part.write_bytes(save({"features": stored}, metadata=meta))
            self.bytes += path.stat().st_size
        else:
            self.unkept += 1
        return stored.to(features.dtype)


def _load(path: Path, key: str) -> Tensor:
    """Read the features of an entry.

    Raises:
        Damaged: the file is truncated or changed, or belongs to another image.
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
    """Provides the features of a frozen encoder from ``folder`` during training.

    See :class:`FeatureStore` for the arguments.
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
        """Hash the encoder, whose weights are final by now, and use the cache."""
        vlm = pl_module.vlm
        self.store = FeatureStore(
            self.folder, vlm.get_submodule("encoder"), dtype=self.dtype, max_bytes=self.max_bytes
        )
        pl_module.feature_cache = self.store

    def teardown(self, trainer: pl.Trainer, pl_module: VLMModule, stage: str) -> None:
        """Remove the cache from the model."""
        if pl_module.feature_cache is not None:
            pl_module.feature_cache = None
            if trainer.is_global_zero:
                print(self.store.summary(), flush=True)
