"""Mixtures of experts: published expert by expert, computed from one tensor of all of them."""

import re
from collections import Counter
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from hdvl.checkpoints.importers.mapping import From

_EXPERT = re.compile(r"(.*\.experts)\.\d+\.down_proj\.weight")


def with_experts(mapping: Mapping[str, From], stored: Collection[str]) -> dict[str, From]:
    """``mapping`` in which tensors of all experts are made of those stored for each (Qwen3-MoE and others).

    ``stored`` are the names of the stored tensors. A tensor that is stored whole, as GPT-OSS's are, stays
    as it is.
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
            found[target] = From(tuple(parts), _gates_and_values)
        elif count and kind == "down_proj":
            parts = [f"{stem}.{i}.down_proj.weight" for i in range(count)]
            found[target] = From(tuple(parts), _stacked)
    return found


def _stacked(*experts: Tensor) -> Tensor:
    return torch.stack(experts)


def _gates_and_values(*tensors: Tensor) -> Tensor:
    """The gates of all experts, then the values of all, as rows under each other."""
    half = len(tensors) // 2
    return torch.cat((torch.stack(tensors[:half]), torch.stack(tensors[half:])), dim=1)
