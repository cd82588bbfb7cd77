"""Mappings of a configuration that describe objects to build, and building them.

A :class:`Node` is a mapping that will be built. Which mappings become nodes is decided once, when a
configuration is read: in configurations of the caller and of ``conf/``, all that have a ``_target_``
(:func:`marked`), in a model folder those that passed the check (:func:`hdvl.checkpoints.known.checked`). Any
other mapping is data, even if it has a ``_target_``, and no text is interpolated. Values of published
files can therefore be put into a node unchanged.
"""

import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

TARGET, PARTIAL, ARGS = "_target_", "_partial_", "_args_"
RESERVED = (TARGET, PARTIAL, ARGS, "_recursive_", "_convert_")
"""Keys that have a meaning in Hydra."""


class Node(dict[str, Any]):
    """A mapping that :func:`assemble` builds: ``_target_`` and the arguments to call it with."""


def marked(value: Any) -> Any:
    """A copy of ``value`` in which every mapping with a ``_target_`` is a :class:`Node`.

    Use it only for trusted configurations: those of the caller and of ``conf/``.
    """
    if isinstance(value, Mapping):
        inner = {key: marked(item) for key, item in value.items()}
        return Node(inner) if TARGET in inner or isinstance(value, Node) else inner
    if isinstance(value, list | tuple):
        return [marked(item) for item in value]
    return value


def unmarked(value: Any, where: str = "model") -> Any:
    """``value`` as plain data, for a file in which only ``_target_`` distinguishes nodes from data.

    Raises:
        ValueError: a mapping of data has a key that would make it a node in the file.
    """
    if isinstance(value, Mapping):
        clash = [] if isinstance(value, Node) else [key for key in RESERVED if key in value]
        if clash:
            raise ValueError(
                f"{where} is data with the key {clash[0]}, which a configuration cannot hold; "
                "remove the key"
            )
        return {key: unmarked(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [unmarked(item, f"{where}[{number}]") for number, item in enumerate(value)]
    return value


def assemble(value: Any, *, source: object, where: str = "model") -> Any:
    """Build the nodes in ``value``, inner ones first; everything else is kept.

    Args:
        value: a :class:`Node`, or data that may contain nodes.
        source: the file or object that ``value`` comes from, for error messages.
        where: the key of ``value`` in it, for error messages.

    Raises:
        ValueError: a node names nothing that can be called, or the call rejects its arguments.
    """
    if isinstance(value, Mapping):
        inner = {
            key: assemble(item, source=source, where=f"{where}.{key}")
            for key, item in value.items()
        }
        return _called(inner, source, where) if isinstance(value, Node) else inner
    if isinstance(value, list | tuple):
        return [
            assemble(item, source=source, where=f"{where}[{number}]")
            for number, item in enumerate(value)
        ]
    return value


def target_of(name: str, *, source: object, where: str) -> Callable[..., Any]:
    """Import the object with the dotted ``name``.

    Raises:
        ValueError: there is no such object, or it cannot be called.
    """
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{where} of {source} names {name}, which cannot be imported: {error}"
        ) from error
    if not callable(found):
        raise ValueError(f"{where} of {source} names {name}, which cannot be called")
    target: Callable[..., Any] = found
    return target


def _called(arguments: dict[str, Any], source: object, where: str) -> Any:
    from huggingface_hub.errors import StrictDataclassError

    name = arguments.pop(TARGET)
    target = target_of(name, source=source, where=where)
    args: Sequence[Any] = arguments.pop(ARGS, ())
    held = bool(arguments.pop(PARTIAL, False))
    options = {key: item for key, item in arguments.items() if key not in RESERVED}
    _check_arguments(target, args, options, f"{where} of {source}", name, held=held)
    if held:
        return partial(target, *args, **options)
    try:
        return target(*args, **options)
    # Constructors raise these for values of a wrong type; transformers validates its configurations.
    except (
        *(ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError),
        *(RuntimeError, AssertionError, MemoryError, OSError, ImportError, StrictDataclassError),
    ) as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{where} of {source} cannot be built: {reason}") from error


def _check_arguments(
    target: Callable[..., Any],
    args: Sequence[Any],
    options: Mapping[str, Any],
    place: str,
    name: str,
    *,
    held: bool,
) -> None:
    try:
        signature = inspect.signature(target)
    except ValueError:  # some callables that are written in C have no signature
        return
    try:
        (signature.bind_partial if held else signature.bind)(*args, **options)
    except TypeError as error:
        raise ValueError(f"{place} does not fit {name}: {error}") from error
