"""Causal language models of transformers, built from their configuration, and the attention they run on."""

import logging
from functools import cache
from typing import Any

logger = logging.getLogger("hdvl.llms")


def from_numbers(config: Any) -> Any:
    """The model of a configuration of transformers, with random weights.

    It runs on SDPA, or on the attention that its family has.
    """
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def note_attention(model: Any) -> None:
    """Log, once for each family, that a model runs on a slower attention than SDPA."""
    kernel = str(model.config._attn_implementation)
    if kernel == "eager":
        _note_eager(str(model.config.model_type))


@cache
def _note_eager(family: str) -> None:
    logger.warning(
        "the attention of %s is eager, transformers has no SDPA for it: more memory and time in long "
        "texts",
        family,
    )
