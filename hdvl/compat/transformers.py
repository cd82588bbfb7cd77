"""The import of transformers' models, without the parts of other libraries that inference does not use.

Every model of transformers imports ``transformers.modeling_utils``, which imports the sharding of
``torch.distributed``, the compiler ``torch._dynamo``, the losses of object detectors with ``scipy`` and
``torchvision``, and ``accelerate``. These take longer than everything else that answering a question with a
small model imports. They are imported when they are first used instead.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, update_wrapper
from importlib import import_module
from typing import Any
from unittest.mock import patch

from hdvl.compat.deferred import after_import, deferred

UNUSED = (
    "accelerate",
    "scipy",
    "torch._dynamo",
    "torch.distributed._composable",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.nn.attention.flex_attention",
    "transformers.distributed.expert_parallel",
    "transformers.distributed.pipeline_parallel",
    "transformers.distributed.tensor_parallel",
)
"""Packages of which transformers imports names that no answer of a model needs."""

REGISTERING = ("allow_in_graph", "assume_constant_result")
"""Decorators of ``torch._dynamo`` and ``torch.compiler`` that register a function and return it."""


@contextmanager
def few_imports() -> Iterator[None]:
    """Context for loading a model: transformers' models are imported, and what they do not need is not."""
    import_modelling()
    with compiler_not_imported():
        yield


def import_modelling() -> None:
    """Import ``transformers.modeling_utils``, and what all language models import, if they are not yet.

    It is called before the first import of a model of transformers. Where another caller was first, as
    Lightning is in a training, nothing is put off.
    """
    if "transformers.modeling_utils" in sys.modules:
        return
    registered = list[tuple[str, Any]]()
    with deferred(UNUSED), _undecorated(registered):
        import transformers.generation
        import transformers.masking_utils
        import transformers.modeling_layers
        import transformers.modeling_utils

        transformers.generation.GenerationMixin  # noqa: B018 - its module is imported on access
    if registered:
        after_import("torch._dynamo", lambda: _register(registered))


@contextmanager
def compiler_not_imported() -> Iterator[None]:
    """Context in which torch does not import its compiler in order to exclude functions from it.

    It would do so where an operation on ``meta`` is computed in Python, such as that of a batch norm. If
    the compiler is not imported, nothing is compiled, and there is nothing to exclude a function from.
    Afterwards the functions are as before.
    """
    if "torch._dynamo" in sys.modules:
        yield
        return
    excluded = list[Any]()

    def disable(function: Any, *_: Any, **__: Any) -> Any:
        excluded.append(function)
        return function

    with deferred(["torch._dynamo"]):
        vars(import_module("torch._dynamo"))["disable"] = disable
        try:
            yield
        finally:
            for function in excluded:
                vars(function).pop("__dynamo_disable", None)


@contextmanager
def _undecorated(registered: list[tuple[str, Any]]) -> Iterator[None]:
    """Context in which the decorators of ``torch.compiler`` do not import ``torch._dynamo``.

    A function that ``disable`` decorates is decorated at its first call. The other decorators return the
    function itself; their names and functions are appended to ``registered``.
    """
    import torch

    disable: Any = torch.compiler.disable

    def disable_later(function: Any = None, recursive: bool = True, *, reason: Any = None) -> Any:
        if function is None:
            return lambda given: disable_later(given, recursive, reason=reason)
        return _at_first_call(function, lambda: disable(function, recursive, reason=reason))

    def register_later(name: str) -> Callable[[Any], Any]:
        def register(function: Any) -> Any:
            registered.append((name, function))
            return function

        return register

    with ExitStack() as stack:
        for module in (torch.compiler, import_module("torch._dynamo")):
            for name in REGISTERING:
                stack.enter_context(patch.object(module, name, register_later(name)))
        stack.enter_context(patch.object(torch.compiler, "disable", disable_later))
        yield


def _register(functions: Sequence[tuple[str, Any]]) -> None:
    """Do what the decorators would have done; nothing has been compiled before."""
    dynamo = import_module("torch._dynamo")
    for name, function in functions:
        getattr(dynamo, name)(function)


def _at_first_call(
    function: Callable[..., Any], decorated: Callable[[], Callable[..., Any]]
) -> Callable[..., Any]:
    """Return a function that is ``function``, as ``decorated`` returns it, from the first call on."""
    made = cache(decorated)
    return update_wrapper(lambda *args, **kwargs: made()(*args, **kwargs), function)
