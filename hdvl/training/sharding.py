"""Fully sharded data parallel training (FSDP2): every rank keeps a share of each tensor.

A unit of the model is gathered when it is computed. Its ranks wait for each other there, so a unit has
to be computed equally often on all of them, whatever images they have: that holds for the layers
of the LLM and the blocks of an encoder that takes all tiles at once. The bridge (called once for
each shape of grid), the merger, the tables of the LLM and an encoder that goes chunk by chunk are
gathered together, once a step.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from hdvl.model import VLM
from hdvl.training.blocks import blocks


class FullySharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2 over all devices, with a checkpoint of one shard a rank."""

    def __init__(self, *, process_group_backend: str | None = None) -> None:
        super().__init__(
            save_distributed_checkpoint=True, process_group_backend=process_group_backend
        )

    def setup_environment(self) -> None:
        """All processes share one model; none of its layers is split."""
        self._data_parallel_size: int = self.num_nodes * self.num_processes
        self._tensor_parallel_size: int = 1
        super().setup_environment()


def shard(vlm: VLM, mesh: DeviceMesh) -> VLM:
    """A copy of ``vlm`` whose tensors are shared out over ``mesh``; those of ``vlm`` are given up.

    :func:`gather` gives them back.

    Raises:
        ValueError: a tensor that cannot be shared out (four-bit weights).
    """
    for name, parameter in vlm.named_parameters():
        if not parameter.is_floating_point():
            raise ValueError(
                f"trainer=fsdp2 shards floating-point weights, {name} has {parameter.dtype}; train "
                "with trainer=ddp, or without qlora"
            )
        parameter.data = parameter.data.contiguous()
    copy = deepcopy(vlm, {id(parameter): parameter for parameter in vlm.parameters()})
    for module in (*units(copy), copy):
        own = [p for p in module.parameters() if not isinstance(p, DTensor)]
        fully_shard(module, mesh=mesh, reshard_after_forward=module is not copy)
        for parameter in own:  # sharded by now: its memory is free
            parameter.data = parameter.new_empty(0)
    return copy


def gather(sharded: VLM, vlm: VLM) -> None:
    """The tensors of ``sharded`` whole and on the CPU, into ``vlm``; all ranks call it."""
    trained = dict(sharded.named_parameters())
    for name, parameter in vlm.named_parameters():
        parameter.data = whole(trained[name].detach()).cpu()
    buffers = dict(sharded.named_buffers())
    for name, buffer in vlm.named_buffers():
        buffer.data = buffers[name].to(buffer.device)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor whose shares the ranks hold (all of them call it), or the tensor itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_share(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def units(vlm: Any) -> Iterator[nn.Module]:
    """What is gathered by itself."""
    parts = [vlm.llm] if vlm.encode_chunk is not None else [vlm.encoder, vlm.llm]
    for part in parts:
        yield from (block for block in blocks(part) if any(True for _ in block.parameters()))
