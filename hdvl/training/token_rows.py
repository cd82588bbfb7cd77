"""Rows of new tokens that are trained separately, however the rest of the language model is tuned.

peft keeps these rows in a small table and writes them over the frozen ones in each forward pass. A head
that is tied to the embeddings uses the same rows; any other head gets rows of its own.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from hdvl.sequences import one_or_several

_ROWS = "trainable_tokens_delta"


def is_token_row(name: str) -> bool:
    """Whether a parameter of this name is a table of new rows."""
    return f".{_ROWS}." in name


def new_token_ids(vlm: Any, tokens: str | Sequence[str] | None) -> list[int]:
    """Return the ids of ``tokens``, or of the tokens that were added to the vocabulary, without image slots.

    Image slots are replaced by visual tokens and never generated, so their rows are not used.

    Raises:
        ValueError: a token is not in the vocabulary, or no token is new.
    """
    if tokens is None:
        ids = {int(index) for index in vlm.llm.new_ids}
    else:
        tokens = one_or_several(tokens, "tuning.tokens")
        vocabulary = {} if vlm.llm.tokenizer is None else vlm.llm.tokenizer.get_vocab()
        unknown = [token for token in tokens if token not in vocabulary]
        if unknown:
            raise ValueError(
                f"tuning.tokens must be in the vocabulary, {', '.join(unknown)} are not; each must "
                "be one token of the template or the tokenizer"
            )
        ids = {int(vocabulary[token]) for token in tokens}
    ids -= {vlm.image_token_id}
    if not ids:
        raise ValueError(
            "tuning.new_tokens needs new tokens, the vocabulary had all of them; name those to "
            "train in tuning.tokens, or leave new_tokens null"
        )
    return sorted(ids)


def add_token_rows(llm: Any, ids: list[int], *, trainable: bool) -> None:
    """Give the rows ``ids`` of the embedding tables of ``llm`` a parameter of their own, in place."""
    from peft import TrainableTokensConfig
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    config = TrainableTokensConfig(token_indices=ids)
    first: Any = None
    names = {id(module): name for name, module in llm.named_modules()}
    for table in llm.embedding_layers():
        if getattr(table, "bias", None) is not None:
            raise ValueError("tuning.new_tokens needs an output head without bias; leave it null")
        tied = first if first is not None and table.weight is first.base_layer.weight else None
        layer = TrainableTokensLayer(table, "default", config, tied_adapter=tied)
        layer.update_layer("default", config=config, tied_adapter=tied)
        layer.trainable_tokens_delta.requires_grad_(trainable)
        llm.set_submodule(names[id(table)], layer)
        first = first or layer


def token_rows(module: nn.Module) -> list[nn.Parameter]:
    """The tables of new rows in ``module``, each once."""
    return [parameter for name, parameter in module.named_parameters() if is_token_row(name)]
