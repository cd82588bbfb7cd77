"""Fully sharded data parallel training (FSDP2): each rank holds a shard of every tensor.

The weights of a unit are gathered when the unit is computed, and all ranks take part. A unit therefore has
to be computed equally often on all ranks, even if some have no images. This holds for the layers of the LLM
and for the blocks of an encoder that takes all tiles at once. The bridge (which is called once for each
shape of grid), the merger, the embedding tables of the LLM, and an encoder that works in chunks are
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
    """Lightning's strategy for FSDP2 over all devices. Each rank saves its own shard of a checkpoint."""

    def __init__(self, *, process_group_backend: str | None = None) -> None:
        super().__init__(
            save_distributed_checkpoint=True, process_group_backend=process_group_backend
        )

    def setup_environment(self) -> None:
        """Use all processes for data parallelism; no layer is split between them."""
        self._data_parallel_size: int = self.num_nodes * self.num_processes
        self._tensor_parallel_size: int = 1
        super().setup_environment()


def shard(vlm: VLM, mesh: DeviceMesh) -> VLM:
    """Return a copy of ``vlm`` whose tensors are sharded over ``mesh``. The tensors of ``vlm`` become empty.

    :func:`gather` restores them.

    Raises:
        ValueError: a tensor cannot be sharded because it is not floating-point (four-bit weights).
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
        for parameter in own:  # its values are in the shards by now
            parameter.data = parameter.new_empty(0)
    return copy


def gather(sharded: VLM, vlm: VLM) -> None:
    """Copy the full tensors of ``sharded`` to the CPU and into ``vlm``. All ranks have to call this."""
    trained = dict(sharded.named_parameters())
    for name, parameter in vlm.named_parameters():
        parameter.data = full_tensor(trained[name].detach()).cpu()
    buffers = dict(sharded.named_buffers())
    for name, buffer in vlm.named_buffers():
        buffer.data = buffers[name].to(buffer.device)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor of a sharded one (all ranks have to call this), or ``tensor`` itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_shard(tensor: Tensor) -> Tensor:
    """Return the local shard of a tensor, or ``tensor`` itself if it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def units(vlm: Any) -> Iterator[nn.Module]:
    """Yield the modules that are gathered separately."""
    parts = [vlm.llm] if vlm.encode_chunk is not None else [vlm.encoder, vlm.llm]
    for part in parts:
        yield from (block for block in blocks(part) if any(True for _ in block.parameters()))
