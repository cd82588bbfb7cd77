"""Low-rank adapters for the layers of one part, whose own weights stay frozen.

LoRA (arXiv 2106.09685) adds the product ``B A`` to a weight. DoRA (arXiv 2402.09353) also trains the norm
of each row of the sum. QLoRA (arXiv 2305.14314) keeps the frozen weight in four bits.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from hdvl.quantisation import nf4
from hdvl.sequences import one_or_several
from hdvl.training import attention_lora

ALL_LINEAR = "all-linear"
OPTIONS = ("rank", "alpha", "dropout", "targets")


def lora_options(tuning: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return the adapter options of ``part``. Options that it does not set are those of ``common``."""
    lora = tuning.get("lora", {})
    options = dict(lora.get("common", {}))
    options |= {name: value for name, value in lora.get(part, {}).items() if value is not None}
    if set(options) != set(OPTIONS):
        raise ValueError(
            f"tuning.lora of {part} must give {', '.join(sorted(OPTIONS))}, got "
            f"{', '.join(sorted(options)) or 'nothing'}"
        )
    if options["rank"] < 1 or not 0 <= options["dropout"] < 1:
        raise ValueError(
            f"tuning.lora of {part} must have rank >= 1 and dropout in 0..1, got "
            f"{options['rank']} and {options['dropout']}"
        )
    return options


def linear_layers(module: nn.Module) -> list[str]:
    """Names of the linear layers of ``module``."""
    from transformers.pytorch_utils import Conv1D

    inside = _attention_children(module)
    return [
        name
        for name, child in module.named_modules()
        if name not in inside and isinstance(child, Conv1D | nn.Linear)
    ]


def _backbone_layers(llm: Any) -> list[str]:
    """Names of the linear layers of a language model's backbone, without its output head."""
    backbone = llm.backbone
    (prefix,) = (name for name, child in llm.named_modules() if child is backbone)
    tables = {id(layer) for layer in llm.embedding_layers()}
    return [
        name
        for name in (f"{prefix}.{layer}".strip(".") for layer in linear_layers(backbone))
        if id(llm.get_submodule(name)) not in tables
    ]


def add_adapters(part: str, mode: str, module: nn.Module, options: Mapping[str, Any]) -> None:
    """Insert adapters into the linear layers of ``module``, in place.

    Args:
        part: the name of the part, for error messages.
        mode: ``lora``, ``dora`` or ``qlora``.
        module: the part.
        options: rank, alpha, dropout and targets (see :func:`lora_options`).

    Raises:
        ValueError: there is no layer to adapt, a target does not exist, dropout is set for torch's
            attention, or four-bit weights are not available.
    """
    from peft import LoraConfig, inject_adapter_in_model

    everything = options["targets"] == ALL_LINEAR
    layers = _backbone_layers(module) if part == "llm" else linear_layers(module)
    named = one_or_several(options["targets"], f"tuning.lora.{part}.targets")
    names = layers if everything else list(named)
    attentions = attention_lora.attentions(module) if everything else []
    if not names and not attentions:
        raise ValueError(
            f"tuning.{part}={mode} needs a linear layer, {type(module).__name__} has none; use "
            "frozen or full"
        )
    for target in names:
        _check_target(part, module, target)
    if attentions:
        _check_attention(part, mode, options)
    if mode == "qlora":
        nf4.quantise(part, module, layers, asked=f"tuning.{part}=qlora", instead="use lora")
    if names:
        config = LoraConfig(
            r=options["rank"],
            lora_alpha=options["alpha"],
            lora_dropout=options["dropout"],
            target_modules=names,
            use_dora=mode == "dora",
        )
        inject_adapter_in_model(config, module)
    for _, attention in attentions:
        attention_lora.adapt(attention, options["rank"], options["alpha"], dora=mode == "dora")


def merge_adapters(module: nn.Module) -> None:
    """Add every adapter to its weight and restore the plain layers, in place.

    Four-bit weights are converted back to their previous dtype before the adapter is added, so nothing is
    rounded a second time.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    attention_lora.merge(module)
    adapted = [name for name, child in module.named_modules() if isinstance(child, BaseTunerLayer)]
    for name in adapted:
        layer: Any = module.get_submodule(name)
        if nf4.is_quantised(layer.get_base_layer()):
            plain = nf4.merged(layer)
        else:
            layer.merge(safe_merge=True)
            plain = layer.get_base_layer()
        module.set_submodule(name, plain)
    nf4.restore(module)
    for child in module.modules():
        vars(child).pop(
            "peft_config", None
        )  # otherwise peft would treat the next adapters as a second set


def _attention_children(module: nn.Module) -> set[str]:
    """Return the names of layers inside torch's attention, which uses their weights without calling them."""
    return {
        f"{name}.{child}"
        for name, attention in attention_lora.attentions(module)
        for child, _ in attention.named_children()
    }


def _check_target(part: str, module: nn.Module, target: str) -> None:
    hits = [n for n, _ in module.named_modules() if n == target or n.endswith(f".{target}")]
    where = f"change tuning.lora.{part}.targets"
    if not hits:
        raise ValueError(f"each LoRA target must be in {part}, {target} is not; {where}")
    for name in hits:
        _check_own_weight(part, module, name, where)
    blind = sorted(_attention_children(module) & set(hits))
    if blind:
        raise ValueError(
            f"a LoRA target must be a layer that is called, {part}.{blind[0]} inside torch's "
            f"attention is not; {where} to {ALL_LINEAR}"
        )


def _check_own_weight(part: str, module: nn.Module, target: str, where: str) -> None:
    """Refuse a tied weight, because its adapter would be merged into every layer that shares the weight."""
    weight = getattr(module.get_submodule(target), "weight", None)
    sharing = [
        name
        for name, child in module.named_modules()
        if name != target and any(own is weight for own in child.parameters(recurse=False))
    ]
    if weight is not None and sharing:
        raise ValueError(
            f"a LoRA target must have a weight of its own, {part}.{target} is tied to "
            f"{part}.{sharing[0]}; {where}, or set model.{part}.config.tie_word_embeddings=false"
        )


def _check_attention(part: str, mode: str, options: Mapping[str, Any]) -> None:
    """Refuse options that need the input of a layer. Adapters of torch's attention only see the weights."""
    if options["dropout"]:
        raise ValueError(
            f"tuning.lora.{part}.dropout must be 0 for adapters of torch's attention, got "
            f"{options['dropout']}; set it to 0, or name targets outside of attention"
        )
    if mode == "qlora":
        raise ValueError(
            f"tuning.{part}=qlora cannot keep torch's attention in four bits; use lora, or name "
            f"targets outside of attention in tuning.lora.{part}.targets"
        )
