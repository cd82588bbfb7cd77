"""Mixtures of experts that are published as one tensor per expert and computed from stacked tensors."""

import re
from collections import Counter
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from hdvl.checkpoints.importers.mapping import TensorSource

_EXPERT = re.compile(r"(.*\.experts)\.\d+\.down_proj\.weight")


def with_experts(
    mapping: Mapping[str, TensorSource], stored: Collection[str]
) -> dict[str, TensorSource]:
    """A copy of ``mapping`` that stacks the stored tensors of single experts (Qwen3-MoE and others).

    Tensors that are stored for all experts together, as those of GPT-OSS, keep their entries.

    Args:
        mapping: target name -> source, with the name of the stacked tensor as key.
        stored: names of the stored tensors.
    """
    counts = Counter(match[1] for key in stored if (match := _EXPERT.fullmatch(key)))
    found = dict(mapping)
    for target, entry in mapping.items():
        if len(entry.keys) != 1 or entry.keys[0] in stored:
            continue
        stem, _, kind = entry.keys[0].rpartition(".")
        count = counts.get(stem, 0)
        if count and kind == "gate_up_proj":
            parts = [
                f"{stem}.{i}.{name}.weight"
                for name in ("gate_proj", "up_proj")
                for i in range(count)
            ]
            found[target] = TensorSource(tuple(parts), _gates_and_values)
        elif count and kind == "down_proj":
            parts = [f"{stem}.{i}.down_proj.weight" for i in range(count)]
            found[target] = TensorSource(tuple(parts), _stacked)
    return found


def _stacked(*experts: Tensor) -> Tensor:
    return torch.stack(experts)


def _gates_and_values(*tensors: Tensor) -> Tensor:
    """The gate projections of all experts stacked, concatenated with the stacked up projections."""
    half = len(tensors) // 2
    return torch.cat((torch.stack(tensors[:half]), torch.stack(tensors[half:])), dim=1)
