"""Translates the configuration of a published language model to that of ``CausalLM.from_config``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hdvl.checkpoints.importers.base import read_json, required

_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
GENERATION = "generation_config.json"


def llm_numbers(config: Mapping[str, Any], *, source: object) -> dict[str, Any]:
    """The values of ``config`` that define the architecture of a model of its ``model_type``.

    Paths, versions, generation settings and the like are left out. Rotary settings of earlier versions
    are converted to ``rope_parameters`` of the current transformers.

    Raises:
        ValueError: transformers has no such ``model_type``, or sizes are absent.
    """
    from transformers import AutoConfig, PreTrainedConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = config.get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(
            f"language model of {source} must have a model_type of transformers, got {kind!r}"
        )
    required(config, _SIZES, source=source)
    defaults = AutoConfig.for_model(kind).to_dict()
    structure = (set(defaults) - set(PreTrainedConfig().to_dict())) | set(_KEPT)
    numbers = {key: value for key, value in config.items() if key in structure}
    if "rope_parameters" in defaults and "rope_parameters" not in config:
        numbers["rope_parameters"] = _rope(config, defaults["rope_parameters"])
    return {"model_type": kind, **numbers}


def _rope(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_parameters`` from ``rope_theta`` and ``rope_scaling``, which were used before transformers 5."""
    scaling = dict(config.get("rope_scaling") or {})
    kind = scaling.pop("type", None) or scaling.pop("rope_type", "default")
    return {
        **defaults,
        "rope_theta": config.get("rope_theta", defaults["rope_theta"]),
        **scaling,
    } | {"rope_type": kind}


def stop_ids(config: Mapping[str, Any], folder: Path) -> list[int]:
    """Ids that end an answer: those of ``generation_config.json`` if it has any, else of ``config``."""
    file = folder / GENERATION
    settings = read_json(file) if file.is_file() else {}
    ends = settings.get("eos_token_id", config.get("eos_token_id"))
    if ends is None:
        return []
    return [int(end) for end in ends] if isinstance(ends, list) else [int(ends)]
