"""hdvl suppresses tqdm's warning about widgets in notebooks; without hdvl tqdm still gives it."""

import subprocess
import sys

import pytest

# What a notebook looks like to tqdm: a kernel, and no ipywidgets.
NOTEBOOK = """
import sys, types
sys.modules["ipykernel"] = sys.modules["ipykernel.zmqshell"] = types.ModuleType("ipykernel")
sys.modules["ipywidgets"] = None
import IPython
"""


def warned(root, statement: str) -> bool:
    result = subprocess.run(
        [sys.executable, "-c", f"{NOTEBOOK}\n{statement}\nimport tqdm.auto"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    return "IProgress not found" in result.stderr


@pytest.mark.slow
def test_no_warning_after_the_first_use_of_hdvl(root):
    assert warned(root, "")  # or the patch is no longer needed
    assert not warned(root, "import hdvl")
