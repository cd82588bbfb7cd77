"""Describes a model in terms of transformers: its config, and the origin of each tensor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hdvl.checkpoints.importers.mapping import From
from hdvl.llms.transformers_config import plain_numbers
from hdvl.model import VLM

LANGUAGE_MODELS = ("llama", "mistral", "qwen2", "qwen3")
"""Types whose logits are nothing but ``lm_head`` of the last state, as these layouts take it."""


@dataclass(frozen=True)
class TransformersTarget:
    """A model in the terms of one class of transformers.

    Attributes:
        config: of the class, as plain data with ``model_type``.
        names: rules (regular expression, name) from its tensors to those of the model.
        make: what makes a tensor of ``names`` where it is not taken as it is.
        processor: builds the processor for a tokenizer and a chat template.
        tokens: what the processor looks for on its tokenizer besides the image token: name, token.
        wraps: whether the processor itself writes ``image_prefix`` and ``image_suffix``.
        notes: what transformers will do otherwise, in a sentence each.
    """

    config: Mapping[str, Any]
    names: tuple[tuple[str, str], ...]
    processor: Callable[[Any, str], Any]
    make: Mapping[str, From] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    wraps: bool = False
    notes: tuple[str, ...] = ()


def language_model(vlm: VLM) -> tuple[dict[str, Any], list[str]]:
    """The configuration of the language model, and why these layouts cannot hold it, if so."""
    from transformers import PreTrainedModel

    llm, backbone = vlm.llm, vlm.llm.backbone
    if not isinstance(backbone, PreTrainedModel):
        return {}, [f"llm is {type(llm).__name__}, not a causal model of transformers"]
    numbers = plain_numbers(backbone.config)
    reasons = []
    own = type(backbone).__module__.startswith("transformers.models.")
    if not own or numbers["model_type"] not in LANGUAGE_MODELS:
        reasons.append(
            f"the language model is {type(backbone).__name__} ({numbers['model_type']}), known are "
            f"{', '.join(LANGUAGE_MODELS)} of transformers"
        )
    if llm.tokenizer is None:
        reasons.append("the model has no tokenizer, which a processor needs")
    rows = llm.embedding_layers()[0].weight.shape[0]
    if not 0 <= vlm.image_token_id < rows:
        reasons.append(
            f"image_token_id={vlm.image_token_id} is no row of the embeddings (0..{rows - 1}), "
            "which transformers looks it up in"
        )
    return numbers, reasons


def differing(pairs: Mapping[str, tuple[object, object]]) -> list[str]:
    """A reason for each name whose value differs from the one that transformers uses."""
    return [f"{name}={told} (only {only})" for name, (told, only) in pairs.items() if told != only]


def transparency_notes(tiler: Any) -> list[str]:
    """A note if the tiler treats transparent pixels differently from transformers."""
    if tiler.background is not None and tuple(tiler.background) == (255, 255, 255):
        return []
    own = "drops alpha" if tiler.background is None else f"lays it on {tiler.background}"
    return [f"transparent pixels: transformers lays the image on white, hdvl {own}"]


def reading_notes(vlm: VLM) -> tuple[str, ...]:
    """Notes on how transformers reads images differently from the tiler."""
    tiler: Any = vlm.tiler
    notes = transparency_notes(tiler)
    if tiler.backend != "pillow":
        notes.append(f"resampling: hdvl uses backend={tiler.backend}, which is within 2/255")
    return tuple(notes)
