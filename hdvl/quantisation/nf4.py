"""Frozen weights in four bits: NF4 of QLoRA (arXiv 2305.14314), implemented by bitsandbytes."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

LIBRARY = "bitsandbytes"
BLOCK = 64
"""Neighbouring weights that share a scale."""

# The library recommends another package for a weight layout that is not used here.
logging.getLogger(f"{LIBRARY}.backends.cpu.ops").setLevel(logging.ERROR)


def why_absent() -> str | None:
    """Return why four-bit weights are not available here, or None if they are."""
    if find_spec(LIBRARY) is None:
        return f"{LIBRARY} is not installed; pip install 'hdvl[quantisation]'"
    return None


def quantise(
    part: str, module: nn.Module, names: Sequence[str], *, asked: str, instead: str
) -> None:
    """Replace the linear layers ``names`` of ``module`` by four-bit layers.

    The scales of the blocks are quantised, too. Weights on ``meta`` stay as they are.

    Args:
        part: the name of the part that ``module`` is, for error messages.
        module: the module.
        names: the names of its layers.
        asked: the setting that asks for four-bit weights, for error messages.
        instead: what to do where they are not possible, for error messages.

    Raises:
        ValueError: bitsandbytes is missing or does not support the device of the weights, or a layer is
            not a ``torch.nn.Linear`` or its rows do not consist of whole blocks.
    """
    reason = why_absent()
    if reason is not None:
        raise ValueError(f"{asked} needs four-bit weights, {reason}")
    for name in names:
        layer = module.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            raise ValueError(
                f"{asked} needs layers of torch.nn.Linear, {part}.{name} is "
                f"{type(layer).__name__}; {instead}"
            )
        # On CPUs the library's own kernel (0.50.2) reads rows that end inside a block with the wrong scales.
        if layer.in_features % BLOCK:
            raise ValueError(
                f"{asked} needs rows of a multiple of {BLOCK} weights, {part}.{name} has "
                f"{layer.in_features}; {instead}"
            )
        if layer.weight.is_meta:
            vars(layer.weight)["four_bits"] = True  # for stored_bytes
            continue
        try:
            module.set_submodule(name, _four_bit(layer))
        except (NotImplementedError, RuntimeError) as error:
            raise ValueError(
                f"{asked} needs four-bit kernels for {layer.weight.device.type}, "
                f"{LIBRARY} has none here: {error}; {instead}"
            ) from error


def is_quantised(layer: nn.Module) -> bool:
    """Whether the weight of ``layer`` is in four bits."""
    return getattr(getattr(layer, "weight", None), "quant_state", None) is not None


def count(parameter: Tensor) -> int:
    """Return the number of values in ``parameter``. Four-bit weights hold two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(torch.Size(state.shape).numel())


def stored_bytes(parameter: Tensor, width: int) -> int:
    """Return the bytes of ``parameter``, of ``width`` bytes a value, or of its four-bit values and scales."""
    numbers = count(parameter)
    if getattr(parameter, "quant_state", None) is None and not hasattr(parameter, "four_bits"):
        return numbers * width
    # One byte for each block, and four bytes for every 256 blocks.
    return numbers // 2 + numbers // BLOCK + 4 * (numbers // BLOCK // 256)


def merged(adapter: Any) -> nn.Linear:
    """Return a plain layer that computes what peft's ``adapter`` of a four-bit layer computes."""
    base = adapter.get_base_layer()
    weight = _dequantised(base)
    for name in adapter.active_adapters:
        variant = adapter.lora_variant.get(name)
        delta = adapter.get_delta_weight(name)
        weight = weight + delta if variant is None else variant.merge_safe(adapter, name, weight)
    return _plain(base, weight)


def restore(module: nn.Module) -> None:
    """Replace four-bit layers by plain ones with the rounded weights."""
    for name, layer in list(module.named_modules()):
        if is_quantised(layer):
            module.set_submodule(name, _plain(layer, _dequantised(layer)))


def _four_bit(layer: nn.Linear) -> nn.Module:
    from bitsandbytes import nn as four_bits

    library: Any = four_bits
    device = layer.weight.device
    four_bit = library.Linear4bit(
        layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta"
    )
    weight = library.Params4bit(
        layer.weight.detach().clone(),
        requires_grad=False,
        blocksize=BLOCK,
        quant_type="nf4",
        compress_statistics=True,
        module=four_bit,
    )
    four_bit.weight, four_bit.bias = (
        weight.to(device),
        layer.bias,
    )  # the weight is quantised when it is moved
    # In evaluation mode some processors would change the layout of the weights and round their scales again:
    # a validation in the middle of a run must not change the model.
    four_bit.support_avx512bf16_for_cpu = False
    four_bit.register_load_state_dict_pre_hook(_load)
    return four_bit.train(layer.training)  # type: ignore[no-any-return]


def _load(layer: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load a stored four-bit weight. The library writes its scales beside it and does not read them back."""
    from bitsandbytes import nn as four_bits

    library: Any = four_bits
    start = f"{prefix}weight."
    scales = {key.removeprefix(start): state.pop(key) for key in list(state) if start in key}
    if scales:
        layer.weight = library.Params4bit.from_prequantized(
            state[f"{prefix}weight"], scales, device=layer.weight.device, module=layer
        )


def _dequantised(layer: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    weight: Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight


def _plain(layer: Any, weight: Tensor) -> nn.Linear:
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    plain.weight = nn.Parameter(weight.detach(), requires_grad=False)
    plain.bias = layer.bias
    return plain.train(layer.training)
