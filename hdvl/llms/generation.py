"""What the ``generate`` of transformers is told: which ids end an answer, how to draw, what to penalise."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def end_ids(stop_ids: tuple[int, ...], tokenizer: Any) -> list[int]:
    """The ids that end an answer where a call names none.

    Raises:
        ValueError: there are no ``stop_ids``, and no tokenizer with an end of sequence.
    """
    if stop_ids:
        return list(stop_ids)
    if tokenizer is None or tokenizer.eos_token_id is None:
        raise ValueError("generate needs stop_ids, this model has no tokenizer with an end token")
    return [int(tokenizer.eos_token_id)]


def settings(stop: list[int], tokenizer: Any, **options: Any) -> Any:
    """A ``GenerationConfig`` of these options alone: no setting of a checkpoint is in it."""
    from transformers import GenerationConfig

    pad = None if tokenizer is None else tokenizer.pad_token_id
    if pad is None:
        pad = stop[0] if stop else 0
    return GenerationConfig(eos_token_id=stop or None, pad_token_id=pad, **options)


def sampling(do_sample: bool, **options: float) -> dict[str, Any]:
    """The options of sampling, or none of them where the likeliest id is taken.

    Raises:
        ValueError: an option would be ignored, because ``do_sample`` is not set.
    """
    neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    ignored = [f"{name}={value}" for name, value in options.items() if value != neutral[name]]
    if ignored and not do_sample:
        raise ValueError(f"{', '.join(ignored)} needs do_sample=True, got do_sample=False")
    return {"do_sample": do_sample, **(options if do_sample else {})}


def room(wanted: int, context: int | None, length: int) -> int:
    """The new ids that fit behind prompts of ``length`` positions: an answer ends with the context.

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
    """Ends each row for itself where ``ended`` says so of its ids."""
    from transformers import StoppingCriteriaList

    def rows(ids: Tensor, scores: Any, **options: Any) -> Tensor:
        assert ended is not None
        return torch.tensor([ended(row) for row in ids.tolist()], device=ids.device)

    return StoppingCriteriaList([] if ended is None else [rows])


def penalty(strength: float) -> Any:
    """The repetition penalty, if any."""
    from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

    # Given as a setting it would warn that ids of the prompt are not seen: there are none.
    found = [] if strength == 1.0 else [RepetitionPenaltyLogitsProcessor(strength)]
    return LogitsProcessorList(found)
