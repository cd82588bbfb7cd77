"""Builds one optimizer with one group for each part, layer, and kind of weight decay.

A part is a child of the VLM (``encoder``, ``bridge``, ``merger``, ``llm``) or ``new_tokens``, the rows of
new tokens that are trained separately. The options of a part are in ``optimizer.groups.PART``; an option
that is null is taken from ``optimizer.common``. Layer-wise decay is that of BEiT (arXiv 2106.08254).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from hdvl.config import build
from hdvl.training.blocks import longest_stack, towers
from hdvl.training.token_rows import is_token_row
from hdvl.training.tuning import MODULES, NEW_TOKENS

OPTIMIZER_PARTS = (*MODULES, NEW_TOKENS)
OPTIONS = ("lr", "weight_decay", "warmup_steps", "min_lr_ratio", "layer_decay", "decay_embeddings")
KEYS = ("factory", "schedule", "weighting", "first_token_weight", "common", "groups")


def parameter_groups(
    vlm: nn.Module, groups: Mapping[str, Mapping[str, Any]], common: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the optimizer groups of ``vlm``. Each trainable parameter is in exactly one of them.

    A group has ``params``, ``name`` (``llm``, ``llm/no_decay``, ``encoder/layer3``, ...), ``part``,
    ``lr`` (the peak), ``weight_decay``, ``warmup_steps`` (a fraction of all steps if below 1) and
    ``min_lr_ratio`` (the final learning rate as a fraction of the peak). One-dimensional parameters are
    not decayed, and embeddings only with ``decay_embeddings``.

    Raises:
        ValueError: a trainable parameter belongs to no part or to two, nothing is trainable, or an
            option is unknown, missing or out of range.
    """
    _check_names(groups, common)
    resolved = {part: _resolve(part, groups.get(part, {}), common) for part in OPTIMIZER_PARTS}
    owner: dict[int, str] = {}
    found: dict[str, dict[str, Any]] = {}
    for part in MODULES:
        module = dict(vlm.named_children()).get(part, nn.Module())
        scales = layer_scales(module, resolved[part]["layer_decay"])
        undecayed_names = undecayed(module, resolved[part]["decay_embeddings"])
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            if id(parameter) in owner:
                raise ValueError(
                    f"each parameter must belong to one part, {part}.{name} is also in "
                    f"{owner[id(parameter)]}; share modules within a part only"
                )
            owner[id(parameter)] = f"{part}.{name}"
            own, (layer, scale), flat = part, scales[name], name in undecayed_names
            if is_token_row(name):
                own, layer, scale = NEW_TOKENS, "", 1.0
                flat = not resolved[own]["decay_embeddings"]
            label = "/".join(filter(None, (own, layer, "no_decay" if flat else "")))
            group = found.setdefault(label, _group(label, own, resolved[own], scale, flat))
            group["params"].append(parameter)
    for name, parameter in vlm.named_parameters():
        if parameter.requires_grad and id(parameter) not in owner:
            raise ValueError(
                f"each trainable parameter must belong to one of {', '.join(OPTIMIZER_PARTS)}, {name} does "
                "not; move it into a part or freeze it"
            )
    if not found:
        raise ValueError("nothing is trainable; choose another tuning than frozen for some part")
    return list(found.values())


def build_optimizer(node: Mapping[str, Any], groups: Sequence[dict[str, Any]]) -> Optimizer:
    """Build the optimizer that ``node["factory"]`` (with ``_target_`` and ``_partial_``) describes.

    ``node`` is the ``optimizer`` config. Its ``common`` and ``groups`` are used by
    :func:`parameter_groups`.

    Raises:
        ValueError: a key of ``node`` is unknown.
    """
    for key in node:
        if key not in KEYS:
            raise ValueError(f"optimizer must have keys of {', '.join(KEYS)}, got {key}")
    optimizer: Optimizer = build(node["factory"])(list(groups))
    return optimizer


def group_table(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of the groups: name, tensors, parameters, peak rate, decay, warm-up, min_lr_ratio."""
    rows = [("group", "tensors", "parameters", "lr", "decay", "warm-up", "min_lr_ratio")]
    for group in groups:
        params = group["params"]
        peak = group.get("initial_lr", group["lr"])
        count = sum(parameter.numel() for parameter in params)
        numbers = (peak, group["weight_decay"], group["warmup_steps"], group["min_lr_ratio"])
        texts = [f"{number:g}" for number in numbers]
        rows.append((group["name"], f"{len(params):,}", f"{count:,}", *texts))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        row[0].ljust(widths[0])
        + "".join("  " + c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )


def layer_scales(module: nn.Module, decay: int | float) -> dict[str, tuple[str, float]]:
    """Return (layer label, learning-rate factor) for each parameter name of a part.

    The blocks are the members of the longest list of modules. Modules registered before them
    (embeddings) are layer 0, block i is layer i + 1, and modules after them belong to the last layer,
    whose factor is 1. Each layer below has ``decay`` times the rate of the layer above it.
    """
    if decay == 1.0:
        return {name: ("", 1.0) for name, _ in module.named_parameters()}
    scales: dict[str, tuple[str, float]] = {}
    for tower, prefix in towers(module):
        scales |= _tower_scales(tower, prefix, decay)
    for name, _ in module.named_parameters():
        scales.setdefault(name, ("", 1.0))
    return scales


def undecayed(module: nn.Module, decay_embeddings: bool) -> set[str]:
    """Return the names of parameters without weight decay: vectors, and embeddings unless asked for."""
    rows = {
        id(child.weight)
        for child in module.modules()
        if isinstance(child, nn.Embedding) and not decay_embeddings
    }
    return {
        name
        for name, parameter in module.named_parameters()
        # A class token or separator of shape 1 1 d is a vector; a 1 x d matrix is a matrix.
        if parameter.ndim < 2
        or (parameter.ndim > 2 and parameter.numel() == max(parameter.shape))
        or id(parameter) in rows
    }


def _tower_scales(
    tower: nn.Module, prefix: str, decay: int | float
) -> dict[str, tuple[str, float]]:
    names = [name for name, _ in tower.named_parameters()]
    stack, depth = longest_stack(tower)
    if names and not depth:
        raise ValueError(
            f"layer_decay={decay} needs a list of blocks, {type(tower).__name__} has none; use 1.0"
        )
    # If the tower itself is the stack, its name is empty, and the names of its blocks begin without a dot.
    start = f"{stack}." if stack else ""
    inside = [index for index, name in enumerate(names) if name.startswith(start)]
    scales = {}
    for index, name in enumerate(names):
        if index in set(inside):
            layer = int(name[len(start) :].split(".")[0]) + 1
        else:
            layer = 0 if inside and index < inside[0] else depth + 1
        label = f"layer{layer}" if layer <= depth else ""
        scales[prefix + name] = (label, decay ** (depth + 1 - layer))
    return scales


def _group(
    label: str, part: str, options: Mapping[str, Any], scale: int | float, undecayed: bool
) -> dict[str, Any]:
    return {
        "params": [],
        "name": label,
        "part": part,
        "lr": options["lr"] * scale,
        "weight_decay": 0.0 if undecayed else options["weight_decay"],
        "warmup_steps": options["warmup_steps"],
        "min_lr_ratio": options["min_lr_ratio"],
    }


def _check_names(groups: Mapping[str, Mapping[str, Any]], common: Mapping[str, Any]) -> None:
    for part in groups:
        if part not in OPTIMIZER_PARTS:
            raise ValueError(
                f"optimizer.groups must name parts ({', '.join(OPTIMIZER_PARTS)}), got {part}"
            )
    for place, options in (
        ("common", common),
        *((f"groups.{k}", v) for k, v in groups.items()),
    ):
        for option in options:
            if option not in OPTIONS:
                raise ValueError(
                    f"optimizer.{place} must have options of {', '.join(OPTIONS)}, got {option}"
                )
    if groups.get(NEW_TOKENS, {}).get("layer_decay") is not None:
        raise ValueError(
            "optimizer.groups.new_tokens.layer_decay must be null, rows of a table are no layers; set "
            "its lr"
        )


def _resolve(part: str, own: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {
        name: common.get(name) if own.get(name) is None else own[name] for name in OPTIONS
    }
    for name, value in options.items():
        if value is None:
            raise ValueError(f"optimizer.common.{name} must be a number, got null")
    if options["lr"] < 0 or options["weight_decay"] < 0 or options["warmup_steps"] < 0:
        raise ValueError(
            f"lr, weight_decay and warmup_steps of {part} must be at least 0, got {options['lr']}, "
            f"{options['weight_decay']} and {options['warmup_steps']}"
        )
    if not 0 <= options["min_lr_ratio"] <= 1 or not 0 < options["layer_decay"] <= 1:
        raise ValueError(
            f"min_lr_ratio of {part} must be in 0..1 and layer_decay in (0, 1], got "
            f"{options['min_lr_ratio']} "
            f"and {options['layer_decay']}"
        )
    return options
