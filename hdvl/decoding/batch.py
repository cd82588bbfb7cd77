"""Generates answers to a batch of embedded prompts."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdvl.decoding.guidance import Guide
from hdvl.decoding.sampler import Sampler
from hdvl.decoding.sampling import SamplingParams
from hdvl.decoding.scheduler import Scheduler
from hdvl.decoding.sequence import EmbeddedPrompt, Sequence
from hdvl.protocols import LLM


def generate(
    llm: LLM,
    embeddings: Float[Tensor, "b s e"],
    attention_mask: Int[Tensor, "b s"] | None = None,
    *,
    ended: Callable[[list[int]], bool] | None = None,
    **options: Any,
) -> Int[Tensor, "b new"]:
    """Generate an answer to each prompt and return the new ids, without those of the prompt.

    A row ends with its stop id; after it, shorter rows are padded with the pad id.

    Args:
        llm: the language model.
        embeddings: prompts (b, s, e).
        attention_mask: 0 for padding (b, s); ``None`` without padding.
        ended: function of the ids of an answer so far that returns whether it ends, in addition to
            ``stop_ids``.
        **options: see :class:`SamplingParams`. ``stop_ids`` are those of the model by default, or else
            the tokenizer's end-of-sequence id.

    Raises:
        ValueError: an option is wrong, there is no stop id, or a prompt fills the context.
    """
    params = SamplingParams.of(**options)
    stop = end_ids(llm) if params.stop_ids is None else tuple(params.stop_ids)
    scheduler = Scheduler(llm, max_slots=max(1, len(embeddings)))
    sequences = []
    for row in range(len(embeddings)):
        own = embeddings[row].clone()  # some models write to their input embeddings
        if attention_mask is not None:
            own = own[attention_mask[row].bool()]
        sampler = Sampler(params, guide_of(llm, params, stop))
        sequences.append(Sequence(EmbeddedPrompt(own), sampler, stop_ids=stop, ended=ended))
        scheduler.add(sequences[-1])
    scheduler.run()
    for sequence in sequences:
        if sequence.error is not None:
            raise sequence.error
    pad = None if llm.tokenizer is None else llm.tokenizer.pad_token_id
    if pad is None:
        pad = stop[0] if stop else 0
    rows = [torch.tensor(sequence.ids, device=embeddings.device) for sequence in sequences]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=int(pad))


def end_ids(llm: LLM) -> tuple[int, ...]:
    """Return the ids that end an answer if a call gives none.

    Raises:
        ValueError: there are no ``stop_ids`` and no tokenizer with an end-of-sequence token.
    """
    if llm.stop_ids:
        return llm.stop_ids
    if llm.tokenizer is None or llm.tokenizer.eos_token_id is None:
        raise ValueError("generate needs stop_ids, this model has no tokenizer with an end token")
    return (int(llm.tokenizer.eos_token_id),)


def guide_of(llm: LLM, params: SamplingParams, stop_ids: tuple[int, ...]) -> Guide | None:
    """Return the guide of an answer with these options; ``None`` for free text.

    Raises:
        ValueError: guided text has no id that may end it.
    """
    if params.guided is None:
        return None
    if llm.tokenizer is None or not stop_ids:
        raise ValueError("guided answers need a tokenizer and an id that ends the answer")
    rows = int(llm.embedding_layers()[-1].weight.shape[0])
    return Guide(params.guided, llm.tokenizer, rows, stop_ids[0])
