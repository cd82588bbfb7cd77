"""Quantised linear layers of Qwen-1, in the layout of AutoGPTQ."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hdvl.checkpoints.importers.mapping import From
from hdvl.llms.gptq import BITS, GPTQ_TENSORS, columns, dequantised


def quantisation(config: Mapping[str, Any], source: object) -> int | None:
    """Bits of a quantised checkpoint; None for one that is not.

    Raises:
        ValueError: it was quantised in another way.
    """
    told = config.get("quantization_config")
    if told is None:
        return None
    wrong = {
        "quant_method": (told.get("quant_method", "gptq"), ("gptq",)),
        "bits": (told.get("bits"), BITS),
        "checkpoint_format": (told.get("checkpoint_format", "gptq"), ("gptq",)),
    }
    faults = [f"{name} {value}" for name, (value, known) in wrong.items() if value not in known]
    if faults:
        raise ValueError(
            f"quantised weights of {source} must be AutoGPTQ's (quant_method gptq, "
            f"checkpoint_format gptq, bits {', '.join(map(str, BITS))}), got {', '.join(faults)}"
        )
    return int(told["bits"])


def quantised_weight(module: str, third: int | None, *, zero_bias: bool) -> From:
    """The weight of layer ``module``, or a third of its rows, worked out from what is stored.

    With ``zero_bias`` the layer has no bias, and the one that AutoGPTQ stored all the same is zero.
    """
    keys = _keys(module, zero_bias)

    def make(*stored: Tensor) -> Tensor:
        return dequantised(*_cut(module, third, stored))

    return From(keys, make)


def quantised_part(module: str, part: str, third: int | None, *, zero_bias: bool) -> From:
    """A stored tensor of ``module`` as it is, or what of it gives a third of its rows: for kernels."""
    keys = _keys(module, zero_bias)

    def make(*stored: Tensor) -> Tensor:
        return _cut(module, third, stored)[GPTQ_TENSORS.index(part)].contiguous()

    return From(keys, make)


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
            f"{float(bias.abs().max()):.3g}; the checkpoint is of another model"
        )
