"""Attention for packed documents, which do not attend to each other, without a mask over the row.

Documents may share a prefix: each continuation attends to the prefix and to itself. The function is
registered with the ``AttentionInterface`` of transformers, so that all causal models that use this
interface support packing. Without segments it equals SDPA.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from hdvl.compat.torch import has_variable_length_attention
from hdvl.llms.kernels import all_at_once, attend_one_query, one_by_one, one_operator
from hdvl.llms.padding import attend_without_padding, padding_or_mask
from hdvl.protocols import Segment, lengths_of

NAME = "hdvl_segments"
NATIVE = ("flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
"""Kernels of transformers that support packed documents without a dense mask."""
_UNKNOWN = ("softcap", "s_aux", "position_bias")


def use_segments(model: Any) -> None:
    """Let ``model`` support segments if it uses SDPA, which remains in use for all other calls."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, segment_attention)
    AttentionMaskInterface.register(NAME, padding_or_mask)
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)


def segment_options(
    model: Any, embeddings: Float[Tensor, "b s e"], segments: Sequence[Segment]
) -> dict[str, Any]:
    """Return the arguments of the model's forward pass for a row of packed documents.

    The positions of each document start at 0; those of a continuation follow the shared prefix.

    Raises:
        ValueError: the lengths do not fill one row, or the model does not support packing.
    """
    rows, length = embeddings.shape[:2]
    pieces = lengths_of(segments)
    if rows != 1 or sum(pieces) != length or min(pieces, default=0) < 1 or () in segments:
        raise ValueError(
            f"segments must be lengths of at least 1 that fill one row, got {len(pieces)} of "
            f"{sum(pieces)} positions in all for {rows} rows of {length}"
        )
    shared = len(pieces) > len(segments)
    _check_model(model, shared=shared)
    device = embeddings.device
    positions, seen = _layout(segments)
    ends = _ends(pieces).to(device)
    # transformers passes a mask of four axes on unchanged. An empty one raises if anything uses it.
    mask = embeddings.new_empty(0, 0, 0, 0) if _kernel(model) == NAME else None
    options = {
        "attention_mask": mask,
        "position_ids": torch.cat(positions)[None].to(device),
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": max(pieces),
        "max_length_k": max(pieces),
    }
    if shared:
        sizes = [len(places) for places in seen]
        options["cu_seq_lens_k"], options["max_length_k"] = _ends(sizes).to(device), max(sizes)
        options["key_places"] = torch.cat(seen).to(device)
    return options


def _kernel(model: Any) -> str:
    return str(model.config._attn_implementation)


def _check_model(model: Any, *, shared: bool) -> None:
    kernel, known = _kernel(model), (NAME,) if shared else (NAME, *NATIVE)
    what, instead = "packing", "data.packing=null"
    if shared:
        what = "sharing images among conversations"
        instead = "data.train.independent=false"
    if kernel not in known:
        either = f" or one of {', '.join(NATIVE)}" * (not shared)
        raise ValueError(
            f"{what} needs a model whose attention is {NAME}{either}, got {kernel}; set {instead}"
        )
    kinds = set(getattr(model.config, "layer_types", None) or ())
    if not kinds <= {"full_attention", "sliding_attention"}:
        raise ValueError(
            f"{what} needs a model with attention layers only, {model.config.model_type} has "
            f"{', '.join(sorted(kinds))}; set {instead}"
        )


def _ends(lengths: Sequence[int]) -> Int[Tensor, " ends"]:
    """Return the cumulative lengths of the pieces of a row, beginning with 0."""
    return functional.pad(torch.tensor(lengths).cumsum(0), (1, 0)).int()


def _layout(segments: Sequence[Segment]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the positions of each piece, and the indices of all tokens that its last token attends to."""
    positions, seen, start = list[Tensor](), list[Tensor](), 0
    for segment in segments:
        first, *rests = (segment,) if isinstance(segment, int) else segment
        shared = torch.arange(start, start + first)
        positions.append(torch.arange(first))
        seen.append(shared)
        start += first
        for rest in rests:
            positions.append(torch.arange(first, first + rest))
            seen.append(torch.cat([shared, torch.arange(start, start + rest)]))
            start += rest
    return positions, seen


def segment_attention(
    module: Any,
    query: Float[Tensor, "b heads s d"],
    key: Float[Tensor, "b groups s_k d"],
    value: Float[Tensor, "b groups s_k d_v"],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Int[Tensor, " ends"] | None = None,
    cu_seq_lens_k: Int[Tensor, " ends"] | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    key_places: Int[Tensor, " seen"] | None = None,
    query_scale: Float[Tensor, "_b 1 s 1"] | None = None,
    **options: Any,
) -> tuple[Float[Tensor, "b s heads d_v"], None]:
    """Apply causal attention within each segment, or SDPA without segments.

    On a GPU in half precision all segments are computed by one variable-length kernel, otherwise by one
    SDPA call for each segment; in a compiled graph this is one operator. Padded prompts are computed row
    by row.

    Args:
        query_scale: factor of each query.
        key_places: indices of the keys that the queries of each segment attend to, concatenated;
            ``cu_seq_lens_k`` are their cumulative lengths. The last query of a segment attends to all of
            its keys, the one before to all but the last, and so on.
    """
    if query_scale is not None:
        query = query * query_scale.to(query.dtype)
    if cu_seq_lens_q is None and attention_mask is not None and attention_mask.ndim == 2:
        padding = attention_mask
        return attend_without_padding(query, key, value, padding, dropout, scaling), None
    if cu_seq_lens_q is None and query.is_cuda and query.shape[2] == 1 and not dropout:
        return attend_one_query(query, key, value, attention_mask, scaling), None
    if cu_seq_lens_q is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        mixed: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
        return mixed
    if key_places is None:  # the kernel recognises equal lengths by the identity of the tensors
        cu_seq_lens_k, max_length_k = cu_seq_lens_q, max_length_q
    else:
        key, value = (part.index_select(2, key_places) for part in (key, value))
    assert cu_seq_lens_k is not None
    _check(sliding_window, max_length_k, options)
    ends = cu_seq_lens_q, cu_seq_lens_k
    half = query.dtype in (torch.float16, torch.bfloat16)
    if query.is_cuda and half and not dropout and has_variable_length_attention():
        assert max_length_q is not None and max_length_k is not None
        longest = max_length_q, max_length_k
        return all_at_once(query, key, value, scaling, ends, longest), None
    if torch.compiler.is_compiling() and not dropout:
        return one_operator(query, key, value, *ends, scaling), None
    return one_by_one(query, key, value, dropout, scaling, ends), None


def _check(window: int | None, longest: int | None, options: dict[str, Any]) -> None:
    found = [name for name in _UNKNOWN if options.get(name) is not None]
    if found:
        raise ValueError(
            f"packed attention does not support {', '.join(found)}; set data.packing=null"
        )
    if window is not None and longest is not None and longest > window:
        raise ValueError(
            f"packed documents must fit the sliding window of {window} tokens, the longest has "
            f"{longest}; set data.max_length={window} or data.packing=null"
        )
