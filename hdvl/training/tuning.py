"""Determines what is trained: each part is frozen, trained in full, or frozen with low-rank adapters.

The config is a plain mapping with these keys:

``encoder``, ``bridge``, ``merger``, ``llm``
    one of :data:`MODES`.
``new_tokens``
    the rows of new tokens: ``full``, ``frozen``, or null to treat them like the LLM.
``lora``
    options of the adapters: ``common`` and one entry for each part, whose nulls are taken from ``common``.
``tokens``
    which tokens are new, if not those that were added to the vocabulary.
``also``
    for each part, modules or parameters that are trained in full although the part is not.
``keep``
    for each part, modules or parameters that stay frozen although the part is trained in full.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hdvl.compat.torch import BatchNorm
from hdvl.protocols import LLM
from hdvl.sequences import one_or_several
from hdvl.training.adapters import OPTIONS, add_adapters, lora_options, merge_adapters
from hdvl.training.token_rows import add_token_rows, is_token_row, new_token_ids

MODULES = ("encoder", "bridge", "merger", "llm")
ADAPTED = ("lora", "dora", "qlora")
MODES = ("frozen", "full", *ADAPTED)
NEW_TOKENS = "new_tokens"
MERGE_TOLERANCE = 0.1
"""Most that merging may move the logits, of the largest: more than half precision rounds."""


def apply_tuning(vlm: nn.Module, tuning: Mapping[str, Any]) -> None:
    """Set ``requires_grad`` of every parameter and insert the adapters, in place.

    Adapters are initialised as the identity, so the outputs of the model do not change, except with
    ``qlora``, which rounds the frozen weights to four bits. Call this once, before the optimizer is
    built, on a model without adapters (see :func:`merge_lora`).

    Raises:
        ValueError: a part, mode, option or name is unknown, a part has no layer to adapt, or nothing
            would be trained.
    """
    check_tuning(tuning)
    if has_lora(vlm):
        raise ValueError("the model has adapters already; merge_lora(vlm) before a new tuning")
    vlm.requires_grad_(False)
    for part, module in _parts(vlm).items():
        also, keep = _named(tuning, "also", part, module), _named(tuning, "keep", part, module)
        if tuning[part] == "full":
            module.requires_grad_(True)
        elif tuning[part] in ADAPTED:
            add_adapters(part, tuning[part], module, lora_options(tuning, part))
        for chosen in also.values():
            chosen.requires_grad_(True)
        for chosen in keep.values():
            chosen.requires_grad_(False)
    rows = tuning.get(NEW_TOKENS)
    if rows is not None:
        llm = vlm.get_submodule("llm")
        add_token_rows(llm, new_token_ids(vlm, tuning.get("tokens")), trainable=rows == "full")
    if not any(parameter.requires_grad for parameter in vlm.parameters()):
        modes = ", ".join(f"{part}={tuning[part]}" for part in MODULES)
        raise ValueError(f"tuning must train something, nothing would learn with {modes}")
    set_modes(vlm, tuning)


def set_modes(vlm: nn.Module, tuning: Mapping[str, Any]) -> None:
    """Switch to training mode, except for frozen modules, which stay in evaluation mode.

    Batch norms next to adapters keep their statistics, because their weights are frozen.
    ``vlm.train()`` undoes this, so call it afterwards, as the LightningModule does in its ``train``.
    """
    vlm.train()
    for part, module in _parts(vlm).items():
        if tuning[part] == "frozen":
            module.eval()
        elif tuning[part] in ADAPTED:
            for child in module.modules():
                if isinstance(child, BatchNorm):
                    child.eval()
        for chosen in _named(tuning, "keep", part, module).values():
            if isinstance(chosen, nn.Module):
                chosen.eval()


def merge_lora(vlm: nn.Module) -> nn.Module:
    """Merge adapters and new rows into the weights, in place, and return ``vlm``.

    The merged model computes the same up to the rounding of one addition in the dtype of the weights.
    Four-bit weights become plain values with the rounding they had. A warning is given if the logits of
    the language model change by more than that, because the saved model would not be the one that was
    validated.
    """
    before = _few_logits(vlm)
    merge_adapters(vlm)
    after = _few_logits(vlm)
    if before is not None and after is not None:
        off, largest = float((after - before).abs().max()), float(before.abs().max())
        if off > MERGE_TOLERANCE * largest:
            warnings.warn(
                f"merging the adapters moved the logits of the language model by {off:.2g} of "
                f"{largest:.2g}; the model is not the one that was validated",
                stacklevel=2,
            )
    return vlm


def _few_logits(vlm: nn.Module) -> Tensor | None:
    """Return the logits of a few ids in evaluation mode, or None for a model on ``meta``."""
    llm: Any = dict(vlm.named_children()).get("llm")
    if not isinstance(llm, LLM) or llm.embedding_layers()[0].weight.is_meta:
        return None
    modes = [(module, module.training) for module in llm.modules()]  # type: ignore[attr-defined]
    ids = torch.arange(8, device=llm.embedding_layers()[0].weight.device)[None]
    llm.eval()  # type: ignore[attr-defined]
    with torch.no_grad():
        logits = llm(llm.embed(ids)).float()
    for module, mode in modes:
        module.training = mode
    return logits


def has_lora(vlm: nn.Module) -> bool:
    """Return whether any layer has an adapter or separate rows of new tokens."""
    return any("lora_" in name or is_token_row(name) for name, _ in vlm.named_parameters())


def moves_buffer(vlm: nn.Module, tuning: Mapping[str, Any], name: str) -> bool:
    """Return whether training may change the buffer ``name``: it belongs to something fully trained."""
    part, _, inside = name.partition(".")
    if tuning[part] != "full":
        return False
    kept = _named(tuning, "keep", part, vlm.get_submodule(part))
    return not any(f"{inside}.".startswith(f"{place}.") for place in kept)


def check_tuning(tuning: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` for an unknown or missing part, mode or option."""
    known = (*MODULES, NEW_TOKENS, "lora", "tokens", "also", "keep")
    for key in tuning:
        if key not in known:
            raise ValueError(f"tuning must name parts ({', '.join(MODULES)}) or lora, got {key}")
    for part in MODULES:
        if tuning.get(part) not in MODES:
            raise ValueError(
                f"tuning.{part} must be one of {', '.join(MODES)}, got {tuning.get(part)}"
            )
    if tuning.get(NEW_TOKENS) not in (None, "frozen", "full"):
        raise ValueError(
            f"tuning.new_tokens must be frozen, full or null, got {tuning[NEW_TOKENS]}"
        )
    for option in ("lora", "also", "keep"):
        for part in tuning.get(option) or {}:
            if part not in MODULES and (option, part) != ("lora", "common"):
                raise ValueError(
                    f"tuning.{option} must name parts ({', '.join(MODULES)}), got {part}"
                )
    for part, options in (tuning.get("lora") or {}).items():
        for key in options:
            if key not in OPTIONS:
                raise ValueError(
                    f"tuning.lora.{part} must have options of {', '.join(OPTIONS)}, got {key}"
                )


def _parts(vlm: nn.Module) -> dict[str, nn.Module]:
    children = dict(vlm.named_children())
    return {part: children[part] for part in MODULES if part in children}


def _named(
    tuning: Mapping[str, Any], option: str, part: str, module: nn.Module
) -> dict[str, nn.Module | nn.Parameter]:
    """Return modules and parameters of ``part`` by the end of their names, as listed in ``tuning.OPTION``."""
    names = one_or_several((tuning.get(option) or {}).get(part) or (), f"tuning.{option}.{part}")
    found: dict[str, nn.Module | nn.Parameter] = {}
    if not names:
        return found
    places = {**dict(module.named_parameters()), **dict(module.named_modules())}
    for pattern in names:
        hits = {n: p for n, p in places.items() if n == pattern or n.endswith(f".{pattern}")}
        if not hits:
            raise ValueError(
                f"each name of tuning.{option}.{part} must be in {part}, {pattern} is not"
            )
        found |= hits
    return found
