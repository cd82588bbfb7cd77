"""hdvl: compose, train and run high-resolution vision-language models."""

from typing import TYPE_CHECKING, Any

from hdvl.compat.tqdm import import_without_widget_warning
from hdvl.version import __version__ as __version__

__all__ = ["build", "compose", "fit", "load"]

if TYPE_CHECKING:
    from hdvl.command import compose
    from hdvl.composition import fit
    from hdvl.config import build
    from hdvl.inference.load import load

import_without_widget_warning()  # does nothing outside of notebooks

_HOMES = {
    "compose": "hdvl.command",
    "build": "hdvl.config",
    "fit": "hdvl.composition",
    "load": "hdvl.inference.load",
}


def __getattr__(name: str) -> Any:
    # PEP 562: importing hdvl stays instant, torch comes with the first use of something that needs it.
    if name not in _HOMES:
        raise AttributeError(f"module 'hdvl' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
