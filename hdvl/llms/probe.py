"""Numerical checks of how a family of models handles embeddings, padding, packed documents and slots.

The logits of two short documents are computed separately, in a padded batch, and packed into one row. They
differ for families that ignore position ids or masks, count positions differently, or add something to ids
that is missing from embeddings. Each configuration is checked once: on a copy with large random weights if
the model is small, otherwise on the model itself.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdvl.llms.plain_slots import PlainSlots
from hdvl.llms.rotary import positions_of, separate_documents
from hdvl.llms.segments import NAME, segment_options, use_segments
from hdvl.llms.slots import ModelSlots

LENGTHS = (2, 4)
SMALL = 4_000_000
"""Models of up to this many parameters are checked on a copy, whose large weights show every fault."""
_FAULTS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)

Found = str | None
"""Description of a fault; ``None`` if there is none."""


def fault(model: Any, question: str) -> tuple[bool, Found]:
    """Run one of the checks :data:`QUESTIONS` for ``model``.

    Returns:
        Whether the check could be run, and the fault that it found. A large model can be checked only
        after its weights have been loaded.
    """
    if sum(parameter.numel() for parameter in model.parameters()) <= SMALL:
        key = model.config.to_json_string(use_diff=False), model.config._attn_implementation
        if (key, question) not in _ANSWERS:
            with torch.device("cpu"):  # the model itself may be on meta
                if key not in _COPIES:
                    _COPIES.clear()
                    _COPIES[key] = _copy_of(model)
                other = _COPIES[key]
                if any(parameter.is_meta for parameter in other.parameters()):
                    return False, None
                _ANSWERS[key, question] = QUESTIONS[question](other, 1e-3)
        return True, _ANSWERS[key, question]
    if any(parameter.is_meta for parameter in model.parameters()):
        return False, None
    return True, QUESTIONS[question](model, 2e-2 if model.dtype == torch.float32 else 1e-1)


def _copy_of(model: Any) -> Any:
    other = random_copy(deepcopy(model.config))
    if model.config._attn_implementation != NAME:
        use_own_attention(other)
    return other


def embeddings_fault(model: Any, tolerance: float = 1e-3) -> Found:
    """Check that ids and their embeddings give the same logits."""
    ids = _ids(model)
    with _quiet(model):
        by_ids = _attempt(lambda: _logits(model, input_ids=ids))
        by_embeddings = _attempt(lambda: _logits(model, inputs_embeds=_embedded(model, ids)))
        # Visual tokens are no rows of the input embedding, but some models look up the id of an embedding.
        others = _attempt(lambda: _logits(model, inputs_embeds=_embedded(model, ids) * 0.9 + 0.1))
    if isinstance(by_ids, str):  # the model cannot read plain text, so nothing can be compared
        return None
    if isinstance(others, str):
        return f"transformers answers with {others}"
    return _difference(by_embeddings, by_ids, tolerance)


def causality_fault(model: Any, tolerance: float = 1e-3) -> Found:
    """Whether logits stay as they are when a later token is another one."""
    with _quiet(model):
        embeddings = _embedded(model, _ids(model))
        changed = embeddings.clone()
        changed[:, -1] = embeddings[:, 0] - embeddings[:, -1]
        before = _attempt(lambda: _logits(model, inputs_embeds=embeddings)[:, :-1])
        after = _attempt(lambda: _logits(model, inputs_embeds=changed)[:, :-1])
    return _difference(after, before, tolerance)


def in_place_fault(model: Any, tolerance: float = 1e-3) -> Found:
    """Check that a forward pass leaves the embeddings that it is given as they are."""
    with _quiet(model):
        embeddings = _embedded(model, _ids(model))
        before = embeddings.clone()
        _attempt(lambda: _logits(model, inputs_embeds=embeddings))
    return None if torch.equal(before, embeddings) else "it writes to its embeddings"


def padding_fault(model: Any, tolerance: float = 1e-3, *, left: bool = False) -> Found:
    """Check that a padded row has the same logits as without padding.

    Rows padded on the left are given positions, as prompts are.
    """
    ids, longest = _ids(model), max(LENGTHS)
    place = slice(longest - LENGTHS[0], None) if left else slice(LENGTHS[0])
    mask = torch.ones(2, longest, dtype=torch.long, device=ids.device)
    mask[0] = 0
    mask[0, place] = 1
    with _quiet(model):
        first, second = torch.split(_embedded(model, ids), list(LENGTHS), dim=1)
        rows = second.repeat(2, 1, 1)
        rows[0] = 0
        rows[0, place] = first[0]
        positions = {"position_ids": positions_of(mask)} if left else {}
        own = {"position_ids": positions_of(mask[:1, place])} if left else {}
        alone = _attempt(lambda: _logits(model, inputs_embeds=first, **own))
        padded = _attempt(
            lambda: _logits(model, inputs_embeds=rows, attention_mask=mask, **positions)[:1, place]
        )
    return _difference(padded, alone, tolerance)


def packing_fault(model: Any, tolerance: float = 1e-3) -> Found:
    """Check that documents packed into one row have the same logits as separately."""
    ids = _ids(model)
    with _quiet(model):
        embeddings = _embedded(model, ids)
        documents = torch.split(embeddings, list(LENGTHS), dim=1)
        alone = _attempt(
            lambda: torch.cat([_logits(model, inputs_embeds=part) for part in documents], 1)
        )
        packed = _attempt(
            lambda: _logits(
                model, inputs_embeds=embeddings, **segment_options(model, embeddings, LENGTHS)
            )
        )
    return _difference(packed, alone, tolerance)


def slots_fault(model: Any, tolerance: float = 1e-3) -> Found:
    """Check that documents of different lengths in slots have the same logits as separately.

    The first tokens of each are read as a prompt in two parts, the last one together.
    """
    return _slots_fault(model, ModelSlots(model), tolerance)


def plain_slots_fault(model: Any, tolerance: float = 1e-3) -> Found:
    """As :func:`slots_fault`, for slots whose layers hdvl computes itself."""
    return _slots_fault(model, PlainSlots(model), tolerance)


def _slots_fault(model: Any, slots: ModelSlots, tolerance: float) -> Found:
    def in_slots() -> Tensor:
        slots.reserve(len(LENGTHS), max(LENGTHS))
        for slot, (part, length) in enumerate(zip(documents, LENGTHS, strict=True)):
            middle = max(1, length // 2)
            slots.prefill(part[0, :middle], slot, 0, length)
            if middle < length - 1:
                slots.prefill(part[0, middle:-1], slot, middle, length)
        last = torch.cat([part[0, -1:] for part in documents])
        return slots.decode(last, [length - 1 for length in LENGTHS]).float()[None]

    with _quiet(model):
        documents = torch.split(_embedded(model, _ids(model)), list(LENGTHS), dim=1)
        alone = _attempt(
            lambda: torch.cat([_logits(model, inputs_embeds=part)[:, -1:] for part in documents], 1)
        )
        together = _attempt(in_slots)
    return _difference(together, alone, tolerance)


QUESTIONS: dict[str, Callable[[Any, float], Found]] = {
    "embeddings": embeddings_fault,
    "causality": causality_fault,
    "in place": in_place_fault,
    "padding": padding_fault,
    "padding on the left": partial(padding_fault, left=True),
    "packing": packing_fault,
    "slots": slots_fault,
    "plain slots": plain_slots_fault,
}
_ANSWERS: dict[Any, Found] = {}
_COPIES: dict[Any, Any] = {}
"""The copy that was made last: a new model is asked several questions one after the other."""


def random_copy(config: Any) -> Any:
    """Build a model of this configuration on the CPU with large weights, without using the global RNG."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for parameter in model.parameters():
            if parameter.is_meta:
                continue
            if parameter.ndim > 1:
                rows = parameter.shape[0] if parameter.shape[-1] == 1 else parameter.shape[-1]
                torch.nn.init.normal_(parameter, std=2 * rows**-0.5)
            elif not parameter.any():  # a gate that is initialised with zero would hide faults
                torch.nn.init.normal_(parameter, std=0.3)
    use_segments(model)
    separate_documents(model)
    return model


def use_own_attention(model: Any) -> bool:
    """Set the attention of ``model`` to that of transformers, and return whether this changed it."""
    changes: bool = model.config._attn_implementation == NAME
    if changes:
        model.set_attn_implementation("sdpa")
    return changes


def _ids(model: Any) -> Int[Tensor, "1 s"]:
    """Return ordinary ids; special ones mostly are the first or the last ones."""
    rows = int(model.get_input_embeddings().weight.shape[0])
    ids = torch.arange(sum(LENGTHS)) * 7 + rows // 2
    return (ids % max(rows - 8, 1) + min(4, rows - 1))[None].to(model.device)


def _embedded(model: Any, ids: Int[Tensor, "1 s"]) -> Float[Tensor, "1 s e"]:
    embeddings: Tensor = model.get_input_embeddings()(ids)
    return embeddings


def _logits(model: Any, **options: Any) -> Tensor:
    logits: Tensor = model(use_cache=False, **options).logits
    return logits.float()


def _attempt(forward: Callable[[], Tensor]) -> Tensor | str:
    try:
        return forward()
    except _FAULTS as error:
        return (
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        )


def _difference(found: Tensor | str, expected: Tensor | str, tolerance: float) -> Found:
    """Compare logits by the median over positions, since rounding may change single positions a lot."""
    if isinstance(found, str):
        return f"transformers answers with {found}"
    if isinstance(expected, str):
        return f"transformers answers with {expected}"
    if not torch.isfinite(found).all() or not torch.isfinite(expected).all():
        return "logits are not finite"
    last = (found - expected)[:, -LENGTHS[-1] :].abs().amax(-1)
    off, largest = float(last.median()), float(expected.abs().max())
    return f"logits are off by {off:.2g} of {largest:.2g}" if off > tolerance * largest else None


@contextmanager
def _quiet(model: Any) -> Iterator[None]:
    """Context with evaluation mode, without gradients and without compilation for these shapes."""
    modes = [(module, module.training) for module in model.modules()]
    compiled = vars(model.base_model).pop("forward", None)
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        if compiled is not None:
            model.base_model.forward = compiled
