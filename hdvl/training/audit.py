"""Finds which tensors a training changed, by comparing hashes of all tensors before and after."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hdvl.quantisation.nf4 import count
from hdvl.training.sharding import local_shard
from hdvl.training.token_rows import token_rows
from hdvl.training.tuning import MODULES, NEW_TOKENS, moves_buffer


def fingerprint(tensor: Tensor) -> str:
    """Return a hash of the bytes of ``tensor``. Of a sharded tensor this is the hash of the local shard."""
    flat = local_shard(tensor).detach().cpu().contiguous().reshape(-1)
    return hashlib.blake2b(flat.view(torch.uint8).numpy().data, digest_size=16).hexdigest()


def fingerprints(vlm: nn.Module) -> dict[str, str]:
    """Hash of every parameter and persistent buffer of ``vlm`` by its name."""
    return {name: fingerprint(tensor) for name, tensor in vlm.state_dict().items()}


def declared_tensors(vlm: nn.Module, tuning: Mapping[str, Any]) -> set[str]:
    """Return the names of the tensors that may change.

    These are trainable parameters, and buffers of fully trained parts.
    """
    # A tied weight has several names in the state dict and one among the parameters.
    shards = [local_shard(p) for p in vlm.parameters() if p.requires_grad]
    trainable = {shard.data_ptr() for shard in shards if shard.numel()}
    parameters = dict(vlm.named_parameters(remove_duplicate=False))
    names = set()
    for name, tensor in vlm.state_dict().items():
        if name in parameters:
            moves = local_shard(tensor).data_ptr() in trainable
        else:
            moves = moves_buffer(vlm, tuning, name)
        if moves:
            names.add(name)
    return names


def moved_tensors(before: Mapping[str, str], vlm: nn.Module) -> set[str]:
    """Names of the tensors that differ from ``before``."""
    after = fingerprints(vlm)
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def check_moved(before: Mapping[str, str], vlm: nn.Module, tuning: Mapping[str, Any]) -> set[str]:
    """Return the names of trainable parameters that did not change since ``before``.

    Raises:
        RuntimeError: a tensor changed that was not trainable; the message names it.
    """
    moved, declared = moved_tensors(before, vlm), declared_tensors(vlm, tuning)
    if moved - declared:
        raise RuntimeError(
            f"only declared parameters may move, these did too: {shorten(moved - declared)}; the "
            "run's weights are not what its config says"
        )
    parameters = {name for name, _ in vlm.named_parameters()}
    return (declared & parameters) - moved


def tuning_table(vlm: nn.Module, tuning: Mapping[str, Any]) -> str:
    """A table with the mode, trainable and total parameters of each part, and of the new tokens."""
    lines = []
    for part in MODULES:
        module = dict(vlm.named_children()).get(part, nn.Module())
        rows = {id(parameter) for parameter in token_rows(module)}
        own = [p for p in module.parameters() if id(p) not in rows]
        lines.append(_tuning_line(part, tuning[part], own))
    if tuning.get(NEW_TOKENS) is not None:
        lines.append(_tuning_line(NEW_TOKENS, tuning[NEW_TOKENS], token_rows(vlm)))
    return "\n".join(lines)


def _tuning_line(part: str, mode: str, parameters: list[nn.Parameter]) -> str:
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    total = sum(map(count, parameters))
    return f"{part:<10} {mode:<7} {trainable:>15,} of {total:>15,} train"


def shorten(names: set[str], limit: int = 5) -> str:
    """The first names of a sorted set, and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
