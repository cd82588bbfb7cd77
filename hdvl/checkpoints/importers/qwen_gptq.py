"""Quantised linear layers of Qwen-1 in the layout of AutoGPTQ."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hdvl.checkpoints.importers.mapping import TensorSource
from hdvl.llms.gptq import BITS, GPTQ_TENSORS, columns, dequantised


def quantisation(config: Mapping[str, Any], source: object) -> int | None:
    """The number of bits of a quantised checkpoint; None if it is not quantised.

    Raises:
        ValueError: it was quantised by another method.
    """
    settings = config.get("quantization_config")
    if settings is None:
        return None
    supported = {
        "quant_method": (settings.get("quant_method", "gptq"), ("gptq",)),
        "bits": (settings.get("bits"), BITS),
        "checkpoint_format": (settings.get("checkpoint_format", "gptq"), ("gptq",)),
    }
    faults = [f"{name} {value}" for name, (value, known) in supported.items() if value not in known]
    if faults:
        raise ValueError(
            f"quantised weights of {source} must be AutoGPTQ's (quant_method gptq, "
            f"checkpoint_format gptq, bits {', '.join(map(str, BITS))}), got {', '.join(faults)}"
        )
    return int(settings["bits"])


def quantised_weight(module: str, third: int | None, *, zero_bias: bool) -> TensorSource:
    """The dequantised weight of layer ``module``, or the given third of its rows.

    ``zero_bias``: the layer has no bias, and the one that AutoGPTQ stores nevertheless must be zero.
    """
    keys = _keys(module, zero_bias)

    def make(*stored: Tensor) -> Tensor:
        return dequantised(*_cut(module, third, stored))

    return TensorSource(keys, make)


def quantised_part(module: str, part: str, third: int | None, *, zero_bias: bool) -> TensorSource:
    """A quantised tensor of ``module`` for use by kernels: whole, or its part for a third of the rows."""
    keys = _keys(module, zero_bias)

    def make(*stored: Tensor) -> Tensor:
        return _cut(module, third, stored)[GPTQ_TENSORS.index(part)].contiguous()

    return TensorSource(keys, make)


def _keys(module: str, zero_bias: bool) -> tuple[str, ...]:
    return tuple(f"{module}.{part}" for part in (*GPTQ_TENSORS, *(("bias",) if zero_bias else ())))


def _cut(
    module: str, third: int | None, stored: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    qweight, qzeros, scales, g_idx, *bias = stored
    if bias:
        _refuse_bias(module, bias[0])
    parts = (qweight, qzeros, scales, g_idx)
    return parts if third is None else columns(parts, third, 3)


def _refuse_bias(module: str, bias: Tensor) -> None:
    if not bias.is_meta and bool(bias.any()):
        raise ValueError(
            f"{module}.bias must be zero, since this layer has none, got up to "
            f"{float(bias.abs().max()):.3g}; the checkpoint belongs to another model"
        )
