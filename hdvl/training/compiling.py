"""torch.compile on few shapes: tiles and tokens are padded to buckets, and compilations are counted."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from jaxtyping import Float, Int, Shaped
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from hdvl.protocols import Segment

PARTS = ("encoder", "llm")


def bucket(size: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds ``size``; above the largest, a multiple of it.

    >>> [bucket(size, [2, 4, 8]) for size in (1, 2, 3, 8, 9, 17)]
    [2, 2, 4, 8, 16, 24]
    """
    place = bisect_left(buckets, size)
    return buckets[place] if place < len(buckets) else -(-size // buckets[-1]) * buckets[-1]


class Compile(pl.Callback):
    """Compiles ``parts`` (encoder, llm), each for the shapes of its buckets, one compilation a bucket.

    ``graphs`` counts what was compiled for (part, shape, training, gradients); ``again`` what was
    compiled for one of these that had been compiled before, which is said as it happens. Padding
    stands behind what is real and is cut off: the numbers are the same within rounding.
    """

    graphs: Counter[tuple[Any, ...]]
    again: Counter[tuple[Any, ...]]

    def __init__(
        self,
        *,
        parts: Sequence[str] = (),
        tiles: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
        tokens: Sequence[int] = (256, 512, 1024, 2048, 4096, 8192),
        backend: str = "inductor",
    ) -> None:
        for part in parts:
            if part not in PARTS:
                raise ValueError(
                    f"callbacks.compile.parts must be of {', '.join(PARTS)}, got {part}"
                )
        for name, sizes in (("tiles", tiles), ("tokens", tokens)):
            if not sizes or sorted({size for size in sizes if size > 0}) != list(sizes):
                raise ValueError(f"callbacks.compile.{name} must rise from at least 1, got {sizes}")
        self.parts, self.tiles, self.tokens, self.backend = parts, tiles, tokens, backend
        self.graphs, self.again = Counter(), Counter()
        self._changed: list[nn.Module] = []
        self._now: tuple[Any, ...] = ()
        self._done: set[tuple[Any, ...]] = set()

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Compile lazily: each shape when it comes first."""
        if self.parts and isinstance(trainer.strategy, ModelParallelStrategy):
            raise ValueError(
                "callbacks.compile.parts must be [] with trainer=fsdp2, whose hooks cut graphs"
            )
        limit = len(self.tiles) + len(self.tokens)
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * limit)
        vlm = pl_module.vlm
        if "encoder" in self.parts:
            self._replace(
                vlm.encoder, self._tiled(vlm.encoder, self._compiled(vlm.encoder.forward))
            )
        if "llm" in self.parts:
            self._replace(vlm.llm, self._lengthened(vlm.llm.model.base_model, vlm.llm.forward))

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """The model that was given is as it was."""
        for module in self._changed:
            del module.forward
        self._changed = []

    def _replace(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        module.forward = forward
        self._changed.append(module)

    def _compiled(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        from torch._dynamo import lookup_backend

        compiler: Any = lookup_backend(self.backend)

        def backend(graph: Any, inputs: Any) -> Any:
            self.graphs[self._now] += 1
            if self._now in self._done:
                self.again[self._now] += 1
                print(f"compiled again: {self._now}", flush=True)
            return compiler(graph, inputs)

        compiled: Callable[..., Any] = torch.compile(forward, backend=backend, dynamic=False)
        return compiled

    def _enter(self, part: str, shape: tuple[int, ...], module: nn.Module) -> None:
        self._now = (part, shape, module.training, torch.is_grad_enabled())

    def _tiled(self, encoder: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        norms = [child for child in encoder.modules() if isinstance(child, _BatchNorm)]

        def run(pixels: Shaped[Tensor, "t c h w"]) -> Float[Tensor, "t n d"]:
            if any(norm.training for norm in norms):
                raise ValueError(
                    "callbacks.compile.parts must not name an encoder whose batch norms train, they "
                    "would count the padding; keep it frozen"
                )
            count = pixels.shape[0]
            wanted = bucket(count, self.tiles)
            self._enter("encoder", (wanted,), encoder)
            padding = (0, 0) * (pixels.ndim - 1) + (0, wanted - count)
            features = forward(functional.pad(pixels, padding))[:count]
            self._done.add(self._now)
            return features

        return run

    def _lengthened(self, base: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        compiled = self._compiled(base.forward)

        def run(
            embeddings: Float[Tensor, "b s e"],
            attention_mask: Int[Tensor, "b s"] | None = None,
            *,
            keep: Int[Tensor, " k"] | None = None,
            segments: Sequence[Segment] | None = None,
            **options: Any,
        ) -> Float[Tensor, "b k v"]:
            rows, length = embeddings.shape[:2]
            wanted = bucket(length, self.tokens)
            kind = "rows" if segments is None else "packed"
            if segments is not None and any(not isinstance(item, int) for item in segments):
                kind = "shared"
            self._now = ("llm", (rows, wanted), kind, torch.is_grad_enabled())
            rest = wanted - length
            padded = functional.pad(embeddings, (0, 0, 0, rest))
            if attention_mask is not None:
                attention_mask = functional.pad(attention_mask, (0, rest))
            if segments is not None and rest:
                segments = [*segments, rest]  # padding is a document of its own
            base.forward = partial(_for_any_documents, compiled, wanted)
            try:  # in training alone: generation has a shape a token
                logits = forward(padded, attention_mask, keep=keep, segments=segments, **options)
            finally:
                del base.forward
            self._done.add(self._now)
            return logits if keep is not None else logits[:, :length]

        return run


def _for_any_documents(compiled: Callable[..., Any], longest: int, **options: Any) -> Any:
    """A call in which nothing but tensors of unknown length tells what documents the row holds."""
    for name in ("cu_seq_lens_q", "cu_seq_lens_k", "key_places"):
        if name in options:
            torch._dynamo.mark_dynamic(options[name], 0)
    for name in ("max_length_q", "max_length_k"):
        if name in options:
            options[name] = longest  # at most
    return compiled(**options)
