"""FLOPs and memory of a training step, determined by running it on the ``meta`` device."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from hdvl.compat.torch import TorchDispatchMode, attention_replaced
from hdvl.model import VLM
from hdvl.protocols import TilePlan
from hdvl.quantisation.nf4 import stored_bytes
from hdvl.training.recompute import recomputed
from hdvl.views import blank_pixels

HALF = ("bf16-true", "16-true")
"""Precisions of Lightning with weights of two bytes."""


@dataclass(frozen=True)
class Cost:
    """FLOPs and memory of one example.

    ``forward`` are the FLOPs of each part (a multiplication and an addition are two), ``step`` those of
    forward and backward pass, and ``saved`` the bytes that autograd keeps for the backward pass.
    """

    forward: dict[str, int]
    step: int
    saved: int


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, without fragmentation; ``libraries`` are 0 where the device is not the CPU."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    libraries: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())

    def rows(self) -> list[tuple[str, int]]:
        """Return (name, bytes) of each part, without the libraries if they are not counted."""
        return [(name, n) for name, n in asdict(self).items() if name != "libraries" or n]


def measure(vlm: VLM, plan: TilePlan, *, text_tokens: int) -> Cost:
    """Return the cost of one image that is cut by ``plan``, followed by ``text_tokens`` supervised tokens.

    ``vlm`` is on ``meta``, with its tuning applied. Attention is counted as a fused kernel: its
    scores are not stored, and causal attention is counted as full attention.
    """
    attention = _Attention()
    parts: dict[str, int] = {}
    saved = _Saved(vlm)
    with ExitStack() as stack:
        stack.enter_context(torch.device("meta"))
        stack.enter_context(attention.planned())
        stack.enter_context(saved_tensors_hooks(saved.count, lambda tensor: tensor))
        counter = stack.enter_context(FlopCounterMode(display=False))
        stack.enter_context(_ReadsAsOne())  # type: ignore[no-untyped-call]

        def total() -> int:
            return int(counter.get_total_flops()) + attention.flops

        for name in ("encoder", "bridge", "llm"):
            stack.enter_context(_counted(getattr(vlm, name), name, parts, total))
        for block in recomputed(vlm):
            hook = block.register_forward_pre_hook(lambda _, inputs: _count_inputs(saved, inputs))
            stack.callback(hook.remove)
        tokens = torch.cat(vlm.encode_images(blank_pixels(plan, "meta"), [plan]))
        text = vlm.llm.embed(torch.empty(1, text_tokens, dtype=torch.long))
        logits = vlm.llm(torch.cat([tokens[None].to(text.dtype), text], dim=1))
        answer_logits = logits[0, -text_tokens:].float()
        loss = functional.cross_entropy(answer_logits, torch.empty(text_tokens, dtype=torch.long))
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        step = total()
    vlm.zero_grad(set_to_none=True)
    return Cost(forward=parts, step=step, saved=saved.bytes)


def memory(
    vlm: nn.Module,
    *,
    saved: int,
    precision: str,
    shards: int = 1,
    gathered: int = 0,
    libraries: int = 0,
) -> Memory:
    """Return the bytes needed to train ``vlm`` with AdamW (two numbers per parameter).

    Args:
        vlm: the model, with its tuning applied.
        saved: bytes kept for the backward pass, in float32.
        precision: Lightning's name of the precision.
        shards: number of ranks that share weights, gradients and optimizer state.
        gathered: bytes of gathered weights that a rank holds besides its shard.
        libraries: bytes that the process of a training on the CPU takes besides.
    """
    total = weight_bytes(vlm.parameters(), precision)
    trainable = weight_bytes((p for p in vlm.parameters() if p.requires_grad), precision)
    half = precision in (*HALF, "bf16-mixed", "16-mixed")
    return Memory(
        weights=total // shards + gathered,
        gradients=trainable // shards,
        optimizer=2 * trainable // shards,
        activations=saved // (2 if half else 1),
        libraries=libraries,
    )


def weight_bytes(parameters: Iterable[Tensor], precision: str) -> int:
    """Bytes of ``parameters`` at Lightning's ``precision``; four-bit weights stay as they are."""
    width = 2 if precision in HALF else 4
    return sum(stored_bytes(p, width) for p in parameters)


class _Attention(torch.autograd.Function):
    """Replaces the fused attention kernel; its FLOPs are counted by :meth:`planned`."""

    flops: int

    def __init__(self) -> None:
        self.flops = 0

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, counter: Any) -> Tensor:
        output = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, output)
        ctx.counter = counter
        counter.flops += _attention_flops(query, key, value)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        query, key, value, _ = ctx.saved_tensors
        # Five products: the scores again, and the gradients of scores, queries, keys and values.
        ctx.counter.flops += _attention_flops(query, key, value) * 5 // 2
        return (*(torch.empty_like(tensor) for tensor in (query, key, value)), None)

    @contextmanager
    def planned(self) -> Iterator[None]:
        """Count attention in the body of this context."""

        def planned(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
            return _Attention.apply(query, key, value, self)

        with attention_replaced(planned):
            yield


class _ReadsAsOne(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Returns True or 1 where a model reads a value of a ``meta`` tensor, such as whether a mask is full."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return True if args[0].dtype == torch.bool else 1
        return func(*args, **(kwargs or {}))


class _Saved:
    """Counts the bytes that autograd keeps. Each storage is counted once, and parameters are not counted."""

    bytes: int

    def __init__(self, module: nn.Module) -> None:
        self.bytes = 0
        self._seen = {t.untyped_storage()._cdata for t in module.state_dict().values()}
        self._alive: list[Any] = []  # identifiers of freed storages are reused

    def count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._alive.append(storage)
            self.bytes += storage.nbytes()
        return tensor


def _count_inputs(saved: _Saved, inputs: Any) -> None:
    """Count the inputs of a recomputed block, which keeps them outside of autograd."""
    for tensor in inputs:
        if isinstance(tensor, Tensor):
            saved.count(tensor)


@contextmanager
def _counted(module: Any, name: str, parts: dict[str, int], total: Any) -> Iterator[None]:
    """Adds the FLOPs of the calls of ``module`` to ``parts[name]``."""
    parts[name] = 0

    def before(*_: Any) -> None:
        parts[name] -= total()

    def after(*_: Any) -> None:
        parts[name] += total()

    hooks = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _attention_flops(query: Tensor, key: Tensor, value: Tensor) -> int:
    *batch, length, width = query.shape
    return 2 * prod(batch) * length * key.shape[-2] * (width + value.shape[-1])
