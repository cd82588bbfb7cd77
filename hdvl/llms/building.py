"""Builds causal language models of transformers, and chooses their attention implementation."""

import inspect
import logging
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

logger = logging.getLogger("hdvl.llms")


def checked_config(numbers: Mapping[str, Any]) -> Any:
    """Return the configuration of transformers for ``numbers``.

    Args:
        numbers: ``model_type`` and the values that differ from its defaults.

    Raises:
        ValueError: ``model_type`` is missing or unknown, or its configuration has no such key.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoConfig

    given = dict(numbers)
    if "model_type" not in given:
        raise ValueError(f"config must name a model_type of transformers, got keys {sorted(given)}")
    family = given.pop("model_type")
    if family not in CONFIG_MAPPING:
        raise ValueError(
            f"config.model_type must be one of transformers, got {family!r}"
            + _suggestion(family, CONFIG_MAPPING)
        )
    try:
        known = _known(family, given)
        for name in given:
            if name not in known and name in _common():
                _note_unused(family, name)
            elif name not in known:
                raise ValueError(
                    f"config of {family} has no {name}{_suggestion(name, known)}; transformers would "
                    "ignore it"
                )
        return AutoConfig.for_model(family, **given)
    except StrictDataclassError as error:
        raise ValueError(f"config of {family} must fit transformers: {error}") from error


def without_unknown_keys(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``numbers`` without the keys that the configuration class of their ``model_type`` ignores.

    Published files and GGUF files hold such keys, which :func:`checked_config` would refuse as mistakes.
    """
    given = {name: value for name, value in numbers.items() if name != "model_type"}
    known = _known(numbers["model_type"], given) | _common() | {"model_type"}
    return {name: value for name, value in numbers.items() if name in known}


def _known(family: str, given: Mapping[str, Any]) -> set[str]:
    """Return the keys that the configuration of ``family`` takes or, with those ``given``, writes."""
    from transformers import CONFIG_MAPPING, AutoConfig

    known = _names(CONFIG_MAPPING[family])
    plain = AutoConfig.for_model(family, **{n: v for n, v in given.items() if n in known})
    return known | set(
        plain.to_dict()
    )  # to_dict() also has derived values, which the class accepts


@cache
def _common() -> frozenset[str]:
    """Return keys that most families have; they are accepted for every family."""
    from transformers import LlamaConfig

    return frozenset(LlamaConfig().to_dict())


@cache
def _note_unused(family: str, name: str) -> None:
    logger.warning("config of %s has no %s, which has no effect", family, name)


def _names(kind: type) -> set[str]:
    """Return the keys that a configuration class accepts: its arguments, their aliases and older names."""
    from transformers import PreTrainedConfig

    names = {
        *PreTrainedConfig().to_dict(),
        *dir(kind),
        *getattr(kind, "attribute_map", {}),
        *_LEGACY,
    }
    for base in kind.__mro__:
        names |= set(getattr(base, "__annotations__", {}))
        if issubclass(base, PreTrainedConfig):
            for method in ("__init__", "__post_init__"):
                if method in vars(base):
                    code = inspect.unwrap(vars(base)[method]).__code__
                    names |= {*code.co_varnames, *map(str, code.co_consts)}
    return names


_LEGACY = (
    *("rope_theta", "rope_scaling", "partial_rotary_factor", "rotary_pct", "rope_parameters"),
    *("torch_dtype", "architectures", "auto_map", "use_cache", "tie_word_embeddings"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
)
"""Keys of older configurations, which transformers translates."""


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=1)
    return f", did you mean {near[0]}?" if near else ""


def from_numbers(config: Any) -> Any:
    """Build a model with random weights from a configuration of transformers.

    It uses SDPA, or eager attention if its family does not support SDPA.
    """
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def note_attention(model: Any) -> None:
    """Log once for each family that its attention is slower than SDPA."""
    kernel = str(model.config._attn_implementation)
    if kernel == "eager":
        _note_eager(str(model.config.model_type))


@cache
def _note_eager(family: str) -> None:
    logger.warning(
        "the attention of %s is eager, transformers has no SDPA for it: long sequences need more "
        "memory and time",
        family,
    )
