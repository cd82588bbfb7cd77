"""Describes a model in terms of transformers: its config, and the origin of each tensor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hdvl.checkpoints.importers.base import differing
from hdvl.checkpoints.importers.mapping import TensorSource
from hdvl.llms.transformers_config import plain_numbers
from hdvl.model import VLM
from hdvl.templates import stop_ids

__all__ = [
    "Exported",
    "TransformersTarget",
    "causal_model",
    "differing",
    "language_model",
    "new_folder",
    "reading_notes",
    "save_generation",
    "transparency_notes",
]

LANGUAGE_MODELS = ("llama", "mistral", "qwen2", "qwen3")
"""Types of language models whose logits are ``lm_head`` of the last hidden state and nothing else."""


@dataclass(frozen=True)
class TransformersTarget:
    """A model in the terms of one class of transformers.

    Attributes:
        config: the configuration of the class as plain data with ``model_type``.
        names: rules (regular expression, name) from its tensors to those of the model.
        make: sources of tensors that are not just renamed.
        stored: rules (regular expression, name) from its tensors to their names in the written files, where
            these are the names of published folders, which transformers and other libraries read.
        processor: builds the processor from a tokenizer and a chat template.
        tokens: attributes that the processor reads from its tokenizer besides the image token -> tokens.
        wraps: whether the processor itself writes ``image_prefix`` and ``image_suffix``.
        notes: one sentence for each difference between transformers and hdvl.
    """

    config: Mapping[str, Any]
    names: tuple[tuple[str, str], ...]
    processor: Callable[[Any, str], Any]
    make: Mapping[str, TensorSource] = field(default_factory=dict)
    stored: tuple[tuple[str, str], ...] = ()
    tokens: Mapping[str, str] = field(default_factory=dict)
    wraps: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """The result of an export: the folder, the class that reads it, and what that class does differently."""

    folder: Path
    architecture: str
    notes: tuple[str, ...]


def new_folder(to: str | Path) -> Path:
    """``to`` as a path.

    Raises:
        ValueError: it exists.
    """
    if Path(to).exists():
        raise ValueError(f"to must be a new folder, {str(to)!r} exists; give another name")
    return Path(to)


def save_generation(vlm: VLM, folder: Path) -> None:
    """Write ``generation_config.json``: greedy, with the ids that end an answer."""
    from transformers import GenerationConfig

    tokenizer = vlm.llm.tokenizer
    ends = [*vlm.llm.stop_ids, *stop_ids(vlm.template, tokenizer)]
    GenerationConfig(
        eos_token_id=sorted(set(ends)), pad_token_id=tokenizer.pad_token_id, do_sample=False
    ).save_pretrained(folder)


def causal_model(vlm: VLM) -> tuple[dict[str, Any], list[str]]:
    """The configuration of the language model, and reasons why other libraries cannot run it."""
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
    for name in ("rules", "quantisation"):
        value = getattr(llm, name, None)
        if value is not None:
            reasons.append(f"llm.{name} is {type(value).__name__} (only null)")
    if llm.tokenizer is None:
        reasons.append("the model has no tokenizer, which a processor needs")
    return numbers, reasons


def language_model(vlm: VLM) -> tuple[dict[str, Any], list[str]]:
    """:func:`causal_model` for the classes of transformers, which embed image slots like other ids."""
    numbers, reasons = causal_model(vlm)
    rows = vlm.llm.embedding_layers()[0].weight.shape[0] if numbers else 0
    if numbers and not 0 <= vlm.image_token_id < rows:
        reasons.append(
            f"image_token_id={vlm.image_token_id} must be a row of the embeddings (0..{rows - 1}), "
            "because transformers embeds it"
        )
    return numbers, reasons


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
    if tiler.srgb:
        notes.append("colour profiles: transformers ignores them, hdvl converts them to sRGB")
    if tiler.backend != "pillow":
        notes.append(f"resampling: hdvl uses backend={tiler.backend}, which is within 2/255")
    return tuple(notes)
