"""What trains: each part frozen, full, or frozen with low-rank adapters (LoRA, arXiv 2106.09685).

The config is a plain mapping: ``encoder``, ``bridge``, ``merger``, ``llm`` each one of
:data:`MODES`, and ``lora`` with ``common`` and one entry a part, whose nulls are taken from
``common``.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hdvl.training import attention_lora

PARTS = ("encoder", "bridge", "merger", "llm")
MODES = ("frozen", "full", "lora")
ALL_LINEAR = "all-linear"


def apply_tuning(vlm: nn.Module, tuning: Mapping[str, Any]) -> None:
    """Set ``requires_grad`` of every parameter and insert the adapters, in place.

    Adapters start as the identity, so the model's answers do not change. Call it once, before the
    optimizer is built, on a model without adapters (see :func:`merge_lora`).

    Raises:
        ValueError: an unknown part, mode or LoRA option; a part without a layer to adapt.
    """
    check_tuning(tuning)
    if has_lora(vlm):
        raise ValueError("the model has adapters already; merge_lora(vlm) before a new tuning")
    vlm.requires_grad_(False)
    for part, module in _parts(vlm).items():
        if tuning[part] == "full":
            module.requires_grad_(True)
        elif tuning[part] == "lora":
            _add_lora(part, module, lora_options(tuning, part))
    set_modes(vlm, tuning)


def set_modes(vlm: nn.Module, tuning: Mapping[str, Any]) -> None:
    """Train mode, except that frozen parts keep evaluation mode (dropout off, statistics fixed).

    Under LoRA the weights beside the adapters are frozen, and so are the statistics of batch norms.
    ``vlm.train()`` undoes this: call it after, as the LightningModule does in its ``train``.
    """
    vlm.train()
    for part, module in _parts(vlm).items():
        if tuning[part] == "frozen":
            module.eval()
        elif tuning[part] == "lora":
            for child in module.modules():
                if isinstance(child, _BatchNorm):
                    child.eval()


def merge_lora(vlm: nn.Module) -> nn.Module:
    """Fold every adapter into its weight and put the plain layer back, in place; returns ``vlm``.

    The result computes the same within the rounding of one addition in the weights' dtype.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    attention_lora.merge(vlm)
    adapted = [name for name, child in vlm.named_modules() if isinstance(child, BaseTunerLayer)]
    for name in adapted:
        layer: Any = vlm.get_submodule(name)
        layer.merge(safe_merge=True)
        parent, _, leaf = name.rpartition(".")
        setattr(vlm.get_submodule(parent), leaf, layer.get_base_layer())
    return vlm


def has_lora(vlm: nn.Module) -> bool:
    """Whether any layer has an adapter."""
    return any("lora_" in name for name, _ in vlm.named_parameters())


def trains_fully(tuning: Mapping[str, Any], part: str) -> bool:
    """Whether all of ``part`` moves, its statistics included."""
    return bool(tuning[part] == "full")


def check_tuning(tuning: Mapping[str, Any]) -> None:
    """ValueError for an unknown or missing part, or an unknown mode."""
    for key in tuning:
        if key not in (*PARTS, "lora"):
            raise ValueError(f"tuning must name parts ({', '.join(PARTS)}) or lora, got {key}")
    for part in PARTS:
        if tuning.get(part) not in MODES:
            raise ValueError(
                f"tuning.{part} must be one of {', '.join(MODES)}, got {tuning.get(part)}"
            )


def lora_options(tuning: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The LoRA options of ``part``: its own, and the common ones where it has none."""
    lora = tuning.get("lora", {})
    options = dict(lora.get("common", {}))
    options |= {name: value for name, value in lora.get(part, {}).items() if value is not None}
    known = {"rank", "alpha", "dropout", "targets"}
    if set(options) != known:
        raise ValueError(
            f"tuning.lora of {part} must give {', '.join(sorted(known))}, got "
            f"{', '.join(sorted(options)) or 'nothing'}"
        )
    if options["rank"] < 1 or not 0 <= options["dropout"] < 1:
        raise ValueError(
            f"tuning.lora of {part} must have rank >= 1 and dropout in 0..1, got "
            f"{options['rank']} and {options['dropout']}"
        )
    return options


def linear_layers(module: nn.Module) -> list[str]:
    """Names of the linear layers of ``module`` but for a language model's output head."""
    from transformers.pytorch_utils import Conv1D

    rows = {child.num_embeddings for child in module.modules() if isinstance(child, nn.Embedding)}
    inside = _attention_children(module)
    return [
        name
        for name, child in module.named_modules()
        if name not in inside
        and (
            isinstance(child, Conv1D)
            or (isinstance(child, nn.Linear) and child.out_features not in rows)
        )
    ]


def _parts(vlm: nn.Module) -> dict[str, nn.Module]:
    children = dict(vlm.named_children())
    return {part: children[part] for part in PARTS if part in children}


def _attention_children(module: nn.Module) -> set[str]:
    """Layers inside torch's attention: it reads their weights, and would never call an adapter."""
    return {
        f"{name}.{child}"
        for name, attention in attention_lora.attentions(module)
        for child, _ in attention.named_children()
    }


def _add_lora(part: str, module: nn.Module, options: Mapping[str, Any]) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    everything = options["targets"] == ALL_LINEAR
    names = linear_layers(module) if everything else list(options["targets"])
    attentions = attention_lora.attentions(module) if everything else []
    if not names and not attentions:
        raise ValueError(
            f"tuning.{part}=lora needs a linear layer, {type(module).__name__} has none; use "
            "frozen or full"
        )
    for target in names:
        _check_target(part, module, target)
    if names:
        config = LoraConfig(
            r=options["rank"],
            lora_alpha=options["alpha"],
            lora_dropout=options["dropout"],
            target_modules=names,
        )
        inject_adapter_in_model(config, module)
    for _, attention in attentions:
        attention_lora.adapt(attention, options["rank"], options["alpha"])


def _check_target(part: str, module: nn.Module, target: str) -> None:
    hits = [n for n, _ in module.named_modules() if n == target or n.endswith(f".{target}")]
    where = f"change tuning.lora.{part}.targets"
    if not hits:
        raise ValueError(f"each LoRA target must be in {part}, {target} is not; {where}")
    blind = sorted(_attention_children(module) & set(hits))
    if blind:
        raise ValueError(
            f"a LoRA target must be a layer that is called, {part}.{blind[0]} inside torch's "
            f"attention is not; {where} to {ALL_LINEAR}"
        )
