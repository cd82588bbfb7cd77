"""Rounding the weights of a language model to 8 or 4 bits for answers."""

from importlib.util import find_spec

import torch
from torch import nn

from hdvl.protocols import LLM
from hdvl.quantisation import nf4

KINDS = ("int8", "nf4")
"""Kinds of weights: 8-bit whole numbers with a scale for each row (torchao), or the 16 levels of NF4 with a
scale for each 64 weights (bitsandbytes; QLoRA, arXiv:2305.14314)."""


def quantise_llm(llm: LLM, kind: str) -> None:
    """Round the weights of the linear layers of ``llm``, except its embedding and its output head.

    Only the weights are rounded; activations keep their precision. The model is then smaller, and decoding
    on a GPU, which reads all weights for each id, is faster; on a CPU it is usually slower.

    Args:
        llm: the language model, on its device and in its dtype.
        kind: one of ``KINDS``.

    Raises:
        ValueError: the kind is unknown, its library is missing, or a layer does not fit it.
    """
    if kind not in KINDS:
        raise ValueError(f"quantisation must be one of {', '.join(KINDS)} or null, got {kind!r}")
    module = llm
    assert isinstance(module, nn.Module)
    kept = {id(layer) for layer in llm.embedding_layers()}
    names = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and id(layer) not in kept
    ]
    if not names:
        raise ValueError(f"quantisation={kind} needs linear layers, {type(llm).__name__} has none")
    module.requires_grad_(False)
    if kind == "nf4":
        asked = f"quantisation={kind}"
        nf4.quantise("llm", module, names, asked=asked, instead="use quantisation=int8")
    else:
        _to_int8(module, set(names))


def _to_int8(module: nn.Module, names: set[str]) -> None:
    if find_spec("torchao") is None:
        raise ValueError(
            "quantisation=int8 needs 8-bit weights, torchao is not installed; "
            "pip install 'hdvl[int8]'"
        )
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    with torch.no_grad():
        quantize_(module, Int8WeightOnlyConfig(), filter_fn=lambda _, name: name in names)
