"""Callback that applies torch.compile, with tiles and tokens padded to a few bucket sizes."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from jaxtyping import Float, Int, Shaped
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.nn import functional

from hdvl.compat.torch import BatchNorm, compile_backend, recompile_limit
from hdvl.protocols import Segment
from hdvl.sequences import one_or_several
from hdvl.training.blocks import blocks
from hdvl.training.module import VLMModule

COMPILED_PARTS = ("encoder", "llm")


def bucket(size: int, buckets: Sequence[int]) -> int:
    """Return the smallest bucket of at least ``size``; beyond the largest bucket, a multiple of it.

    >>> [bucket(size, [2, 4, 8]) for size in (1, 2, 3, 8, 9, 17)]
    [2, 2, 4, 8, 16, 24]
    """
    place = bisect_left(buckets, size)
    return buckets[place] if place < len(buckets) else -(-size // buckets[-1]) * buckets[-1]


class Compile(pl.Callback):
    """Compiles the encoder and the LLM, once for each bucket of tiles or tokens.

    Inputs are padded at the end to the size of a bucket, and the outputs of the padding are removed, so
    the results are equal within rounding. If the weights are sharded over ranks, each block is compiled
    separately, because weights are gathered between blocks.

    Args:
        parts: the parts to compile, of ``encoder`` and ``llm``.
        tiles: buckets of the number of tiles of a batch, in ascending order.
        tokens: buckets of the length of a row, in ascending order.
        backend: the backend of ``torch.compile``.

    Attributes:
        graphs: number of compilations by (part, shape, training mode or kind of rows, gradients).
        again: number of repeated compilations by the same key; each is printed when it happens.

    Raises:
        ValueError: a part is unknown, or the buckets are not ascending numbers above 0.
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
        self._settings = ExitStack()
        self._now: tuple[Any, ...] = ()
        self._done: set[tuple[Any, ...]] = set()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Replace the forward passes by compiled ones; shapes are compiled when they first occur.

        This is done at the start of fitting, when the model has been sharded.
        """
        buckets = len(self.tiles) + len(self.tokens)
        self._settings.enter_context(recompile_limit(4 * buckets))
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
        """Restore the model and the settings of torch."""
        self._restore()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: VLMModule, exception: BaseException
    ) -> None:
        """Restore the model and the settings of torch."""
        self._restore()

    def _restore(self) -> None:
        for module, before in reversed(self._changed):
            del module.forward
            if before is not None:
                module.forward = before
        self._changed = []
        self._settings.close()

    def _replace(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self._changed.append((module, vars(module).get("forward")))
        module.forward = forward

    def _whole_or_blocks(
        self, part: nn.Module, forward: Callable[..., Any], *, by_block: bool
    ) -> Callable[..., Any]:
        sharded = blocks(part) if by_block else []
        for block in sharded:
            self._replace(block, self._compiled(block.forward))
        return forward if sharded else self._compiled(forward)

    def _compiled(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        compiler = compile_backend(self.backend)

        def backend(graph: Any, inputs: Any) -> Any:
            self.graphs[self._now] += 1
            if self._now in self._done:
                self.again[self._now] += 1
                print(f"compiled again: {self._now}", flush=True)
            return compiler(graph, inputs)

        compiled: Callable[..., Any] = torch.compile(forward, backend=backend, dynamic=False)
        return compiled

    def _tiled(self, encoder: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        norms = [child for child in encoder.modules() if isinstance(child, BatchNorm)]

        def run(pixels: Shaped[Tensor, "t c h w"]) -> Float[Tensor, "t n d"]:
            if any(norm.training for norm in norms):
                raise ValueError(
                    "callbacks.compile.parts must not name an encoder whose batch norms train, they "
                    "would count the padding; keep it frozen"
                )
            count = pixels.shape[0]
            size = bucket(count, self.tiles)
            self._now = ("encoder", (size,), encoder.training, torch.is_grad_enabled())
            padding = (0, 0) * (pixels.ndim - 1) + (0, size - count)
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
            size = bucket(length, self.tokens)
            kind, rest = _kind(segments), size - length
            config = getattr(base, "config", None)  # only models of transformers have one
            dropout = getattr(config, "attention_dropout", None) or 0.0
            if kind != "rows" and dropout and base.training:
                raise ValueError(
                    "callbacks.compile.parts must not name llm with packing and attention_dropout="
                    f"{dropout}; set model.llm.config.attention_dropout=0 or leave llm out"
                )
            self._now = ("llm", (rows, size), kind, torch.is_grad_enabled())
            padded = functional.pad(embeddings, (0, 0, 0, rest))
            if attention_mask is not None:
                attention_mask = functional.pad(attention_mask, (0, rest))
            if segments is not None and rest:
                segments = [*segments, rest]  # padding is a separate document
            base.forward = partial(_for_any_documents, compiled, size)
            try:  # only for this call, because generation would compile for each token
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
    """Return the kind of rows that a graph is compiled for: padded, packed, or with shared prefixes."""
    if segments is None:
        return "rows"
    return "packed" if all(isinstance(segment, int) for segment in segments) else "shared"


def _for_any_documents(
    compiled: Callable[..., Any], longest: int, *args: Any, **options: Any
) -> Any:
    """Call a compiled function with the documents of a row marked as tensors of dynamic length."""
    for name in ("cu_seq_lens_q", "cu_seq_lens_k", "key_places"):
        if name in options:
            torch._dynamo.mark_dynamic(options[name], 0)
    for name in ("max_length_q", "max_length_k"):
        if name in options:
            options[name] = longest  # an upper bound, which is the same for all rows
    return compiled(*args, **options)
