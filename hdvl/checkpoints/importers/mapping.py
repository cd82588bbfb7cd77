"""Mappings from the tensors of a model to the stored tensors that they are computed from.

A mapping is first evaluated on the ``meta`` device, so that one error lists everything that does not fit
before any weight is read.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.shards import COMPUTED, tie_groups
from hdvl.weights import refuse


def unchanged(value: Tensor) -> Tensor:
    """Return ``value``."""
    return value


@dataclass(frozen=True)
class TensorSource:
    """How a tensor of the model is computed: ``make`` of the stored tensors under ``keys``, in order.

    Without keys, ``make`` returns a constant.
    """

    keys: tuple[str, ...]
    make: Callable[..., Tensor] = unchanged


Mapped = Mapping[str, TensorSource]
"""Names in a model's ``state_dict`` (one of each group of tied tensors) -> their sources."""


def renamed(targets: Iterable[str], rules: Sequence[tuple[str, str]]) -> dict[str, TensorSource]:
    """Entries for the ``targets`` that a rule matches as a whole; the first such rule is used.

    A rule is a regular expression of target names and a stored name, with ``\\1`` for groups.

    >>> renamed(["llm.model.norm.weight"], [(r"llm\\.(.*)", r"\\1")])["llm.model.norm.weight"].keys
    ('model.norm.weight',)
    """
    found = dict[str, TensorSource]()
    compiled = [(re.compile(pattern), name) for pattern, name in rules]
    for target in targets:
        for pattern, name in compiled:
            if match := pattern.fullmatch(target):
                found[target] = TensorSource((match.expand(name),))
                break
    return found


def qkv_rows(number: int) -> Callable[[Tensor], Tensor]:
    """Rows ``number`` (0, 1 or 2) of three equal parts: query, key or value of a ``c_attn``."""

    def make(value: Tensor) -> Tensor:
        if value.shape[0] % 3:
            raise ValueError(f"rows must come in three equal parts, got {value.shape[0]}")
        return value.chunk(3)[number]

    return make


def merge_lora(scale: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """``base + scale * B @ A`` in float32 (Hu et al., 2021, arXiv:2106.09685); keys: base, A, B."""

    def make(base: Tensor, a: Tensor, b: Tensor) -> Tensor:
        merged = base.to(torch.float32, copy=True)
        return merged.addmm_(b.float(), a.float(), alpha=scale)

    return make


def targets_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a mapping must provide; tied tensors once, by their first name."""
    own = module.state_dict(keep_vars=True)
    return {name: tuple(own[name].shape) for name in tie_groups(own)}


def check(
    mapping: Mapped, published: Published, module: nn.Module, ignorable: Sequence[str] = ()
) -> None:
    """Run ``mapping`` on ``meta`` tensors of the stored shapes and compare with ``module``.

    Args:
        mapping: the source of each tensor of ``module``.
        published: the stored tensors.
        module: the model, which may be on ``meta``.
        ignorable: regular expressions of stored keys that are not used, matched as a whole.

    Raises:
        ValueError: stored keys are missing, surplus, or have a wrong shape or an unsupported type, or
            tensors of the model have no source; all are listed.
    """
    expected = targets_of(module)
    used = {key for entry in mapping.values() for key in entry.keys}
    harmless = re.compile("|".join(f"(?:{pattern})" for pattern in ignorable) or r"(?!)")
    faults = {
        "missing": sorted(used - set(published.shapes)),
        "surplus": sorted(
            key for key in set(published.shapes) - used if not harmless.fullmatch(key)
        ),
        "misshapen": [
            text
            for target, entry in mapping.items()
            if target in expected and (text := _misfit(target, entry, published, expected[target]))
        ],
        "without a source": sorted(set(expected) - set(mapping)),
        "not in the model": sorted(set(mapping) - set(expected)),
    }
    refuse(faults, "published weights must fit the model, they do not")
    own = module.state_dict(keep_vars=True)
    mistyped = {
        "stored as": [t for name, e in mapping.items() for t in _mistyped(e, published, own[name])]
    }
    refuse(mistyped, "published weights must be of types that hdvl computes with, they are not")


def _mistyped(entry: TensorSource, published: Published, own: Tensor) -> Iterator[str]:
    """Stored tensors of an unsupported type: floats of 64 or 8 bits, or another kind than ``own``."""
    if not entry.keys:
        return
    result = (
        published.dtypes[entry.keys[0]]
        if entry.make is unchanged
        else meta_tensor(entry, published).dtype
    )
    right = result.is_floating_point if own.is_floating_point() else result == own.dtype
    for key in entry.keys:
        stored = published.stored[key]
        odd = stored.dtype.is_floating_point and stored.dtype not in COMPUTED
        if odd or not right:
            yield f"{key} in {stored.file.name} is {stored.dtype} for {own.dtype}"


def _misfit(
    target: str, entry: TensorSource, published: Published, expected: tuple[int, ...]
) -> str | None:
    if any(key not in published.shapes for key in entry.keys):
        return None  # listed as missing
    stored = ", ".join(f"{key} {published.shapes[key]}" for key in entry.keys)
    try:
        shape = _shape(entry, published)
    except (RuntimeError, ValueError, IndexError) as error:
        return f"{stored} cannot make {target} {expected}: {error}"
    return None if shape == expected else f"{stored} for {target} {expected}"


def _shape(entry: TensorSource, published: Published) -> tuple[int, ...]:
    if entry.make is unchanged:
        return published.shapes[entry.keys[0]]
    return tuple(meta_tensor(entry, published).shape)


def meta_tensor(
    entry: TensorSource, published: Published, dtype: torch.dtype | None = None
) -> Tensor:
    """The tensor that ``entry`` gives, on the ``meta`` device; see :func:`read_tensor`."""
    with torch.device("meta"):
        sources = [
            torch.empty(published.shapes[key], dtype=published.dtypes[key]) for key in entry.keys
        ]
        return _as(entry.make(*sources), dtype)


def read_tensor(
    entry: TensorSource,
    published: Published,
    dtype: torch.dtype | None = None,
    *,
    held: bool = False,
) -> Tensor:
    """Compute the tensor of ``entry`` from the stored ones.

    Args:
        entry: the stored tensors and the function of them.
        published: the stored tensors.
        dtype: the type of floating-point results; None keeps the stored type.
        held: whether the caller keeps the result, and so the memory of a stored tensor that is returned
            unchanged.
    """
    held = held and entry.make is unchanged
    with torch.no_grad():
        sources = (
            published.read(key, held=held and dtype in (None, published.dtypes[key]))
            for key in entry.keys
        )
        return _as(entry.make(*sources), dtype)


def in_reading_order(mapping: Mapped, published: Published) -> list[str]:
    """The targets ordered by the stored file, so that each file is opened about once."""

    def place(target: str) -> int:
        keys = mapping[target].keys
        return published.place(keys[0]) if keys else 0

    return sorted(mapping, key=place)


def stream(
    mapping: Mapped, published: Published, dtype: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The model's tensors one after the other, for a caller that keeps them; no further copy is made."""
    for target in in_reading_order(mapping, published):
        yield target, read_tensor(mapping[target], published, dtype, held=True)


def _as(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value
