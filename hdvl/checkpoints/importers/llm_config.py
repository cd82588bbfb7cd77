"""A published language model's configuration as the numbers that ``CausalLM.from_config`` takes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hdvl.checkpoints.importers.base import read_json, required

_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
GENERATION = "generation_config.json"


def llm_numbers(told: Mapping[str, Any], *, source: object) -> dict[str, Any]:
    """What ``told`` says of the structure of a model of its ``model_type``, and nothing else.

    Paths, versions, settings of generation and the like are left out; rotary settings are spelled
    as transformers spells them today, whichever way ``told`` has them.

    Raises:
        ValueError: no ``model_type`` that transformers knows, or no sizes.
    """
    from transformers import AutoConfig, PreTrainedConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = told.get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(
            f"language model of {source} must have a model_type of transformers, got {kind!r}"
        )
    required(told, _SIZES, source=source)
    usual = AutoConfig.for_model(kind).to_dict()
    structure = (set(usual) - set(PreTrainedConfig().to_dict())) | set(_KEPT)
    numbers = {key: value for key, value in told.items() if key in structure}
    if "rope_parameters" in usual and "rope_parameters" not in told:
        numbers["rope_parameters"] = _rope(told, usual["rope_parameters"])
    return {"model_type": kind, **numbers}


def _rope(told: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_theta`` and ``rope_scaling`` of configurations before transformers 5."""
    scaling = dict(told.get("rope_scaling") or {})
    kind = scaling.pop("type", None) or scaling.pop("rope_type", "default")
    return {**usual, "rope_theta": told.get("rope_theta", usual["rope_theta"]), **scaling} | {
        "rope_type": kind
    }


def stop_ids(told: Mapping[str, Any], folder: Path) -> list[int]:
    """Ids that end an answer: of ``generation_config.json`` if it says so, else of ``told``."""
    file = folder / GENERATION
    settings = read_json(file) if file.is_file() else {}
    ends = settings.get("eos_token_id", told.get("eos_token_id"))
    if ends is None:
        return []
    return [int(end) for end in ends] if isinstance(ends, list) else [int(ends)]
