"""Rotary embeddings whose frequencies depend on the length of a text, computed for each document.

For the rope types ``dynamic`` and ``longrope`` transformers uses the largest position of a call as the
length, and keeps the frequencies of the longest call so far. In packed rows and batches a document would
then get the frequencies of another one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from hdvl.protocols import Segment


class ByDocument:
    """Mixin for rotary embeddings that computes the angles of each document of each row separately.

    A document ends where the positions decrease. ``prompt_lengths`` are the lengths of complete prompts
    that are read in several calls.
    """

    prompt_lengths: Sequence[int] = ()

    def forward(self, x: Tensor, position_ids: Tensor, *args: Any, **options: Any) -> Any:
        """Return the angles at ``position_ids``, as the rotary embedding does for a single document."""
        angles: Any = super().forward  # type: ignore[misc]
        if position_ids.is_meta or position_ids.ndim != 2:
            return angles(x, position_ids, *args, **options)
        least = self.prompt_lengths or [0] * len(position_ids)
        rows = []
        for number, row in enumerate(position_ids):
            found = []
            for piece in _documents(row):
                _reset_frequencies(self)
                # The added last position sets the length of the text; its angles are dropped.
                length = piece.max(0, keepdim=True).values.clamp(min=least[number] - 1)
                given = torch.cat([piece, length])[None]
                found.append(
                    _map_parts(angles(x, given, *args, **options), lambda part: part[:, :-1])
                )
            rows.append(_concatenated(found, 1))
        return _concatenated(rows, 0)


def separate_documents(model: nn.Module) -> None:
    """Let all rotary embeddings of ``model`` that depend on the length use that of each document."""
    for module in rotary_by_length(model):
        kind = type(module)
        if not issubclass(kind, ByDocument):
            module.__class__ = type(kind.__name__, (ByDocument, kind), {"__module__": __name__})


def rotary_by_length(model: nn.Module) -> list[Any]:
    """Return the rotary embeddings of ``model`` whose frequencies depend on the length of a text."""
    found = []
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        kinds = list(kinds.values()) if isinstance(kinds, dict) else [kinds]
        if any(isinstance(kind, str) and _by_length(kind) for kind in kinds):
            found.append(module)
    return found


def positions_of(mask: Tensor) -> Int[Tensor, "b s"]:
    """Return the position of each token in its text, from 0; padding gets that of a neighbour."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


@contextmanager
def prompts(model: nn.Module, lengths: Sequence[int]) -> Iterator[None]:
    """Context in which rows are read as parts of prompts of these ``lengths``, if there are any."""
    modules = rotary_by_length(model) if lengths else []
    for module in modules:
        module.prompt_lengths = lengths
    try:
        yield
    finally:
        for module in modules:
            module.prompt_lengths = ()


def check_shared(model: nn.Module, segments: Sequence[Segment]) -> None:
    """Check that no conversation of a shared prefix needs other frequencies than the prefix.

    Raises:
        ValueError: a conversation is longer than the length from which the frequencies change.
    """
    shared = [piece for piece in segments if not isinstance(piece, int)]
    longest = max((first + max(rest, default=0) for first, *rest in shared), default=0)
    for module in rotary_by_length(model) if shared else ():
        limit = _trained_length(module)
        if longest > limit:
            raise ValueError(
                f"conversations that share images must fit the {limit} positions from which the rotary "
                f"frequencies depend on the length (rope_type {module.rope_type}), the longest has "
                f"{longest}; set data.train.independent=false"
            )


def _by_length(kind: str) -> bool:
    return "dynamic" in kind or kind == "longrope"


def _trained_length(module: Any) -> int:
    rope = module.config.rope_parameters or {}
    nested = [value for value in rope.values() if isinstance(value, dict)] or [rope]
    lengths = [rule.get("original_max_position_embeddings") for rule in nested]
    known = [int(length) for length in lengths if length]
    return min([*known, int(module.config.max_position_embeddings)])


def _documents(row: Int[Tensor, " s"]) -> list[Tensor]:
    ends = (row.diff() < 0).nonzero().squeeze(1) + 1
    return list(torch.tensor_split(row, ends.tolist()))


def _reset_frequencies(module: Any) -> None:
    """Reset the frequencies to those of a short text, because earlier calls may have changed them."""
    kinds = module.rope_type
    for prefix in [f"{kind}_" for kind in kinds] if isinstance(kinds, dict) else [""]:
        original = getattr(module, f"{prefix}original_inv_freq", None)
        if original is not None:
            setattr(module, f"{prefix}inv_freq", original.clone())
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def _map_parts(value: Any, change: Any) -> Any:
    return tuple(change(part) for part in value) if isinstance(value, tuple) else change(value)


def _concatenated(values: list[Any], axis: int) -> Any:
    if len(values) == 1:
        return values[0]
    if isinstance(values[0], tuple):
        return tuple(torch.cat(parts, axis) for parts in zip(*values, strict=True))
    return torch.cat(values, axis)
