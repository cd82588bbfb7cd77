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
from hdvl.sequences import one_or_several
from hdvl.training.blocks import blocks
from hdvl.training.module import VLMModule

COMPILED_PARTS = ("encoder", "llm")


def bucket(size: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds ``size``; above the largest, a multiple of it.

    >>> [bucket(size, [2, 4, 8]) for size in (1, 2, 3, 8, 9, 17)]
    [2, 2, 4, 8, 16, 24]
    """
    place = bisect_left(buckets, size)
    return buckets[place] if place < len(buckets) else -(-size // buckets[-1]) * buckets[-1]


class Compile(pl.Callback):
    """Compiles ``parts`` (encoder, llm), each for the shapes of its buckets, one compilation a bucket.

    ``graphs`` counts what was compiled for (part, shape, training or kind of rows, gradients); ``again``
    what was compiled for one of these that had been compiled before, which is said as it happens. Padding
    stands behind what is real and is cut off: the numbers are the same within rounding. Where the
    weights are shared out over ranks, each block is compiled by itself: they are gathered between.
    """

    graphs: Counter[tuple[Any, ...]]
    again: Counter[tuple[Any, ...]]

    def __init__(
        self,
        *,
        parts: str | Sequence[str] = (),
        tiles: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
        tokens: Sequence[int] = (256, 512, 1024, 2048, 4096, 8192),
        backend: str = "inductor",
    ) -> None:
        parts = one_or_several(parts, "callbacks.compile.parts")
        for part in parts:
            if part not in COMPILED_PARTS:
                raise ValueError(
                    f"callbacks.compile.parts must be of {', '.join(COMPILED_PARTS)}, got {part}"
                )
        for name, sizes in (("tiles", tiles), ("tokens", tokens)):
            if not sizes or sorted({size for size in sizes if size > 0}) != list(sizes):
                raise ValueError(f"callbacks.compile.{name} must rise from at least 1, got {sizes}")
        self.parts, self.tiles, self.tokens, self.backend = parts, tiles, tokens, backend
        self.graphs, self.again = Counter(), Counter()
        self._changed: list[tuple[nn.Module, Any]] = []
        self._now: tuple[Any, ...] = ()
        self._done: set[tuple[Any, ...]] = set()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Compile lazily: each shape when it comes first. By now the model is sharded, if it ever is."""
        limit = len(self.tiles) + len(self.tokens)
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * limit)
        vlm: Any = pl_module.vlm
        by_block = isinstance(trainer.strategy, ModelParallelStrategy)
        if "encoder" in self.parts:
            forward = self._whole_or_blocks(vlm.encoder, vlm.encoder.forward, by_block=by_block)
            self._replace(vlm.encoder, self._tiled(vlm.encoder, forward))
        if "llm" in self.parts:
            base = vlm.llm.backbone
            compiled = self._whole_or_blocks(vlm.llm, base.forward, by_block=by_block)
            self._replace(vlm.llm, self._lengthened(base, compiled, vlm.llm.forward))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """The model that was given is as it was."""
        for module, before in reversed(self._changed):
            del module.forward
            if before is not None:
                module.forward = before
        self._changed = []

    def _replace(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self._changed.append((module, vars(module).get("forward")))
        module.forward = forward

    def _whole_or_blocks(
        self, part: nn.Module, forward: Callable[..., Any], *, by_block: bool
    ) -> Callable[..., Any]:
        found = blocks(part) if by_block else []
        for block in found:
            self._replace(block, self._compiled(block.forward))
        return forward if found else self._compiled(forward)

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
            self._now = ("encoder", (wanted,), encoder.training, torch.is_grad_enabled())
            padding = (0, 0) * (pixels.ndim - 1) + (0, wanted - count)
            padded = functional.pad(pixels, padding).contiguous(memory_format=torch.channels_last)
            features = forward(padded)[:count]
            self._done.add(self._now)
            return features

        return run

    def _lengthened(
        self, base: nn.Module, compiled: Callable[..., Any], forward: Callable[..., Tensor]
    ) -> Callable[..., Tensor]:
        def run(
            embeddings: Float[Tensor, "b s e"],
            attention_mask: Int[Tensor, "b s"] | None = None,
            *,
            logits_to_keep: Int[Tensor, " k"] | None = None,
            segments: Sequence[Segment] | None = None,
            **options: Any,
        ) -> Float[Tensor, "b k v"]:
            rows, length = embeddings.shape[:2]
            wanted = bucket(length, self.tokens)
            kind, rest = _kind(segments), wanted - length
            config = getattr(base, "config", None)  # of a model of transformers
            dropout = getattr(config, "attention_dropout", None) or 0.0
            if kind != "rows" and dropout and base.training:
                raise ValueError(
                    "callbacks.compile.parts must not name llm with packing and attention_dropout="
                    f"{dropout}; set model.llm.config.attention_dropout=0 or leave llm out"
                )
            self._now = ("llm", (rows, wanted), kind, torch.is_grad_enabled())
            padded = functional.pad(embeddings, (0, 0, 0, rest))
            if attention_mask is not None:
                attention_mask = functional.pad(attention_mask, (0, rest))
            if segments is not None and rest:
                segments = [*segments, rest]  # padding is a document of its own
            base.forward = partial(_for_any_documents, compiled, wanted)
            try:  # in training alone: generation has a shape a token
                logits = forward(
                    padded,
                    attention_mask,
                    logits_to_keep=logits_to_keep,
                    segments=segments,
                    **options,
                )
            finally:
                del base.forward
            self._done.add(self._now)
            return logits if logits_to_keep is not None else logits[:, :length]

        return run


def _kind(segments: Sequence[Segment] | None) -> str:
    """What a graph of the LLM is for: rows padded or whole, of documents, of some that share images."""
    if segments is None:
        return "rows"
    return "packed" if all(isinstance(segment, int) for segment in segments) else "shared"


def _for_any_documents(
    compiled: Callable[..., Any], longest: int, *args: Any, **options: Any
) -> Any:
    """A call in which nothing but tensors of unknown length tells what documents the row holds."""
    for name in ("cu_seq_lens_q", "cu_seq_lens_k", "key_places"):
        if name in options:
            torch._dynamo.mark_dynamic(options[name], 0)
    for name in ("max_length_q", "max_length_k"):
        if name in options:
            options[name] = longest  # at most
    return compiled(*args, **options)
