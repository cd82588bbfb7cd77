"""Which mappings of a configuration are objects to build, and building them.

A :class:`Node` is a mapping that will be built. Which mappings become nodes is decided once, where a
configuration comes in: all that name a ``_target_`` in what the caller or ``conf/`` wrote
(:func:`marked`), the checked ones of a model folder (:func:`hdvl.checkpoints.known.checked`). A mapping
that is no ``Node`` is data whatever its keys are, and no text is ever interpolated, so the values of
published files can be put into a node as they are.
"""

import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

TARGET, PARTIAL, ARGS = "_target_", "_partial_", "_args_"
RESERVED = (TARGET, PARTIAL, ARGS, "_recursive_", "_convert_")
"""Keys that mean something to Hydra."""


class Node(dict[str, Any]):
    """A mapping that :func:`assemble` builds: ``_target_`` and the arguments of what it names."""


def marked(value: Any) -> Any:
    """A copy of ``value`` in which every mapping with a ``_target_`` is a :class:`Node`.

    Only for what the caller or ``conf/`` wrote.
    """
    if isinstance(value, Mapping):
        inner = {key: marked(item) for key, item in value.items()}
        return Node(inner) if TARGET in inner or isinstance(value, Node) else inner
    if isinstance(value, list | tuple):
        return [marked(item) for item in value]
    return value


def unmarked(value: Any, where: str = "model") -> Any:
    """``value`` as plain data, for a file in which ``_target_`` alone tells nodes from data.

    Raises:
        ValueError: data has a key that would make it a node there.
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
    """Build the nodes in ``value``, inner ones first; everything else stays what it is.

    Args:
        value: a :class:`Node`, or data that may hold nodes.
        source: where it comes from, and
        where: what it is there, for error messages.

    Raises:
        ValueError: a node names nothing that can be called, or what it names refuses its arguments.
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
    """What the dotted ``name`` means, its module imported.

    Raises:
        ValueError: there is no such thing, or it cannot be called.
    """
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{where} of {source} names {name}, which is not there: {error}"
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
    # What constructors say to values of a wrong kind; transformers checks its configurations strictly.
    except (
        *(ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError),
        *(RuntimeError, AssertionError, MemoryError, OSError, ImportError, StrictDataclassError),
    ) as error:
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{where} of {source} cannot be built: {said}") from error


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
    except ValueError:  # some that are written in C say none
        return
    try:
        (signature.bind_partial if held else signature.bind)(*args, **options)
    except TypeError as error:
        raise ValueError(f"{place} does not fit {name}: {error}") from error
