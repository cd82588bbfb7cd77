"""Attention weights of a causal language model of transformers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from hdvl.llms.caching import continuation_arguments
from hdvl.llms.causal_lm import CausalLM
from hdvl.llms.rotary import prompts
from hdvl.protocols import LLM


def attention_fault(llm: LLM) -> str | None:
    """Return why ``llm`` gives no attention weights; ``None`` if it gives them."""
    if not isinstance(llm, CausalLM):
        return f"{type(llm).__name__} is no CausalLM of transformers"
    if llm.rules is not None:
        return "the position rules of Qwen-1 are part of a fused kernel, which returns no weights"
    return None


def answer_attention(
    llm: LLM, embeddings: Float[Tensor, "1 s e"], count: int, layers: Sequence[int] | None = None
) -> Float[Tensor, " s"]:
    """Return the weight that each position has for an answer, in float32.

    The weights sum to one, or to less in models that may attend to nothing (the sinks of gpt-oss).

    They are averaged over the heads, the layers and the ``count`` positions whose logits predict the
    answer: the last one of the prompt and those of the answer except its last. The positions before them
    are read with the model's own kernel, so that the weights of a long prompt do not fill the memory. The
    others are read with the ``eager`` kernel of transformers; the model's own one is restored afterwards.
    No other thread may use the model meanwhile.

    Args:
        llm: the language model.
        embeddings: the prompt and the answer (1, s, e).
        count: number of positions of the answer, at least 1.
        layers: indices of the layers that attend, negative from the last; all of them if ``None``.

    Raises:
        ValueError: the model gives no attention weights, or a layer does not exist.
    """
    fault = attention_fault(llm)
    if fault is not None or not isinstance(llm, CausalLM):
        raise ValueError(f"attention needs an LLM that returns attention weights, {fault}")
    model, start = llm.model, embeddings.shape[1] - count - 1
    cache = llm.new_cache([start + count])
    last = torch.tensor([start - 1], device=embeddings.device)
    llm(embeddings[:, :start], cache=cache, logits_to_keep=last)
    tail = embeddings[:, start:-1]
    arguments = continuation_arguments(model, tail, None, None, cache)
    with eager(model), prompts(model, [start + count]):
        output = model(inputs_embeds=tail, use_cache=True, output_attentions=True, **arguments)
    # Recurrent models have no such output, and hybrid ones hold None for layers that do not attend.
    returned = getattr(output, "attentions", None) or ()
    found = [weights for weights in returned if weights is not None]
    if not found:
        raise ValueError(
            f"attention needs an LLM that returns attention weights, {model.config.model_type} of "
            "transformers returns none"
        )
    means = [_mean(weights, start + count) for weights in _chosen(found, layers)]
    return pad(
        torch.stack(means).mean(0), (0, 1)
    )  # the last position predicts no part of the answer


def _mean(weights: Float[Tensor, "1 h q k"], length: int) -> Float[Tensor, " length"]:
    """Return the mean over heads and queries; a layer with a sliding window holds the last keys alone."""
    mean = weights[0].float().mean((0, 1))
    return pad(mean, (length - len(mean), 0))


def _chosen(found: Sequence[Tensor], layers: Sequence[int] | None) -> list[Tensor]:
    if layers is None:
        return list(found)
    wrong = [layer for layer in layers if not -len(found) <= layer < len(found)]
    if wrong or not layers:
        raise ValueError(
            f"layers must be in {-len(found)}..{len(found) - 1}, the layers that attend, got {list(layers)}"
        )
    return [found[layer] for layer in layers]


@contextmanager
def eager(model: Any) -> Iterator[None]:
    """Let a model of transformers attend with its ``eager`` kernel, and restore its own one on exit."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
