"""tqdm in notebooks: its warning about missing widgets is not shown.

Importing ``tqdm.auto``, as transformers does, warns in a notebook without ipywidgets that progress bars
are text. Nothing is wrong then, and the first cell of a notebook should not begin with a warning.
"""

import sys
import warnings


def import_without_widget_warning() -> None:
    """Import ``tqdm.auto`` without its warning if this is a notebook; elsewhere do nothing."""
    if "ipykernel" not in sys.modules or "tqdm.auto" in sys.modules:
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import tqdm.auto  # type: ignore[import-untyped]  # noqa: F401
