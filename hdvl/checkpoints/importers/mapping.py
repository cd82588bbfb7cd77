"""From stored tensors to a model's, told from the model's side: what each of its tensors is made of.

The whole table is run on ``meta`` first, so that everything that does not fit is one error, before
any weight is read.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.shards import COMPUTED, tie_groups
from hdvl.weights import refuse


def same(value: Tensor) -> Tensor:
    """``value`` as it is stored."""
    return value


@dataclass(frozen=True)
class From:
    """What a tensor of the model is made of: stored ``keys``, handed to ``make`` in their order.

    Without keys ``make`` gives a constant.
    """

    keys: tuple[str, ...]
    make: Callable[..., Tensor] = same


Mapped = Mapping[str, From]
"""Names of a model's ``state_dict`` (one of each tie) -> what they are made of."""


def renamed(targets: Iterable[str], rules: Sequence[tuple[str, str]]) -> dict[str, From]:
    """Entries for the ``targets`` that a rule matches whole; the first rule that does counts.

    A rule is a regular expression of target names and the stored name, with ``\\1`` for groups.

    >>> renamed(["llm.model.norm.weight"], [(r"llm\\.(.*)", r"\\1")])["llm.model.norm.weight"].keys
    ('model.norm.weight',)
    """
    found = dict[str, From]()
    compiled = [(re.compile(pattern), name) for pattern, name in rules]
    for target in targets:
        for pattern, name in compiled:
            if match := pattern.fullmatch(target):
                found[target] = From((match.expand(name),))
                break
    return found


def third(number: int) -> Callable[[Tensor], Tensor]:
    """Rows ``number`` (0, 1 or 2) of three equal parts: query, key or value of a ``c_attn``."""

    def make(value: Tensor) -> Tensor:
        if value.shape[0] % 3:
            raise ValueError(f"rows must come in three equal parts, got {value.shape[0]}")
        return value.chunk(3)[number]

    return make


def lora(scale: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """``base + scale * B @ A`` in float32 (Hu et al., 2021, arXiv:2106.09685); keys: base, A, B."""

    def make(base: Tensor, a: Tensor, b: Tensor) -> Tensor:
        merged = base.to(torch.float32, copy=True)
        return merged.addmm_(b.float(), a.float(), alpha=scale)

    return make


def targets_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a mapping must give: each tensor once, ties under their first name."""
    own = module.state_dict(keep_vars=True)
    return {name: tuple(own[name].shape) for name in tie_groups(own)}


def check(
    mapping: Mapped, published: Published, module: nn.Module, ignorable: Sequence[str] = ()
) -> None:
    """Run ``mapping`` on ``meta`` tensors of the stored shapes and compare with ``module``.

    Args:
        mapping: what each tensor of ``module`` is made of.
        published: what is stored.
        module: the model, which may lie on ``meta``.
        ignorable: regular expressions of stored keys that mean nothing here, matched whole.

    Raises:
        ValueError: stored keys are missing, surplus, misshapen or of a type that is not taken over, or
            tensors of the model have no source; all are listed.
    """
    wanted = targets_of(module)
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
            if target in wanted and (text := _misfit(target, entry, published, wanted[target]))
        ],
        "without a source": sorted(set(wanted) - set(mapping)),
        "not in the model": sorted(set(mapping) - set(wanted)),
    }
    refuse(faults, "published weights must fit the model, they do not")
    own = module.state_dict(keep_vars=True)
    mistyped = {
        "stored as": [t for name, e in mapping.items() for t in _mistyped(e, published, own[name])]
    }
    refuse(mistyped, "published weights must be of types that hdvl computes with, they are not")


def _mistyped(entry: From, published: Published, own: Tensor) -> Iterator[str]:
    """Stored numbers that are not taken over: of 64 or 8 bits, or whole where others are wanted."""
    if not entry.keys:
        return
    result = (
        published.dtypes[entry.keys[0]] if entry.make is same else layout(entry, published).dtype
    )
    right = result.is_floating_point if own.is_floating_point() else result == own.dtype
    for key in entry.keys:
        stored = published.stored[key]
        odd = stored.dtype.is_floating_point and stored.dtype not in COMPUTED
        if odd or not right:
            yield f"{key} in {stored.file.name} is {stored.dtype} for {own.dtype}"


def _misfit(target: str, entry: From, published: Published, wanted: tuple[int, ...]) -> str | None:
    if any(key not in published.shapes for key in entry.keys):
        return None  # said already
    stored = ", ".join(f"{key} {published.shapes[key]}" for key in entry.keys)
    try:
        shape = _shape(entry, published)
    except (RuntimeError, ValueError, IndexError) as error:
        return f"{stored} cannot make {target} {wanted}: {error}"
    return None if shape == wanted else f"{stored} for {target} {wanted}"


def _shape(entry: From, published: Published) -> tuple[int, ...]:
    if entry.make is same:
        return published.shapes[entry.keys[0]]
    return tuple(layout(entry, published).shape)


def layout(entry: From, published: Published, dtype: torch.dtype | None = None) -> Tensor:
    """What ``entry`` will give, on ``meta``."""
    with torch.device("meta"):
        sources = [
            torch.empty(published.shapes[key], dtype=published.dtypes[key]) for key in entry.keys
        ]
        return _as(entry.make(*sources), dtype)


def produce(
    entry: From, published: Published, dtype: torch.dtype | None = None, *, held: bool = False
) -> Tensor:
    """What ``entry`` gives; floating-point numbers as ``dtype``, if one is given.

    ``held``: the caller keeps it, and with it what was read if that is handed on as it is.
    """
    held = held and entry.make is same
    with torch.no_grad():
        sources = (
            published.read(key, held=held and dtype in (None, published.dtypes[key]))
            for key in entry.keys
        )
        return _as(entry.make(*sources), dtype)


def in_reading_order(mapping: Mapped, published: Published) -> list[str]:
    """The targets in such an order that each stored file is opened about once."""

    def place(target: str) -> int:
        keys = mapping[target].keys
        return published.place(keys[0]) if keys else 0

    return sorted(mapping, key=place)


def stream(
    mapping: Mapped, published: Published, dtype: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The model's tensors one after the other, to be kept; only as much memory as that needs."""
    for target in in_reading_order(mapping, published):
        yield target, produce(mapping[target], published, dtype, held=True)


def _as(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value
