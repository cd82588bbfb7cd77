"""Options of ``generate`` of transformers: stop ids, sampling, length and repetition penalty."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def end_ids(stop_ids: tuple[int, ...], tokenizer: Any) -> list[int]:
    """Return the ids that end an answer if a call gives none.

    Raises:
        ValueError: there are no ``stop_ids`` and no tokenizer with an end-of-sequence token.
    """
    if stop_ids:
        return list(stop_ids)
    if tokenizer is None or tokenizer.eos_token_id is None:
        raise ValueError("generate needs stop_ids, this model has no tokenizer with an end token")
    return [int(tokenizer.eos_token_id)]


def settings(stop: list[int], tokenizer: Any, **options: Any) -> Any:
    """Return a ``GenerationConfig`` of these options, without any setting of a checkpoint."""
    from transformers import GenerationConfig

    pad = None if tokenizer is None else tokenizer.pad_token_id
    if pad is None:
        pad = stop[0] if stop else 0
    return GenerationConfig(eos_token_id=stop or None, pad_token_id=pad, **options)


def sampling(do_sample: bool, **options: float) -> dict[str, Any]:
    """Return the options of sampling; none of them without ``do_sample``.

    Raises:
        ValueError: an option is given that would be ignored without ``do_sample``.
    """
    neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    ignored = [f"{name}={value}" for name, value in options.items() if value != neutral[name]]
    if ignored and not do_sample:
        raise ValueError(f"{', '.join(ignored)} needs do_sample=True, got do_sample=False")
    return {"do_sample": do_sample, **(options if do_sample else {})}


def room(wanted: int, context: int | None, length: int) -> int:
    """Return how many new ids fit into the context after prompts of ``length`` positions.

    Raises:
        ValueError: the prompts fill the context.
    """
    if context is None or length + wanted <= context:
        return wanted
    if length >= context:
        raise ValueError(
            f"a prompt must leave room in the context of the language model, {context} ids, got {length}"
        )
    return context - length


def criteria(ended: Callable[[list[int]], bool] | None) -> Any:
    """Return stopping criteria that end a row when ``ended`` returns true for its ids."""
    from transformers import StoppingCriteriaList

    def rows(ids: Tensor, scores: Any, **options: Any) -> Tensor:
        assert ended is not None
        return torch.tensor([ended(row) for row in ids.tolist()], device=ids.device)

    return StoppingCriteriaList([] if ended is None else [rows])


def penalty(strength: float) -> Any:
    """Return the logits processors for a repetition penalty; none for a strength of 1."""
    from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

    # As a setting of transformers it warns that prompts given as embeddings have no ids.
    found = [] if strength == 1.0 else [RepetitionPenaltyLogitsProcessor(strength)]
    return LogitsProcessorList(found)
